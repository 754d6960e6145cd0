-- What the sixth format adds: keys that an admin registered for a place, and what became of keys.

-- A key that counts in one community, or in one project. Whose it is: a user, or host/NAME.
CREATE TABLE placed_recipient (
  community TEXT REFERENCES community (id) ON DELETE CASCADE,
  project TEXT REFERENCES project (id) ON DELETE CASCADE,
  holder TEXT NOT NULL,
  recipient TEXT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL
);

CREATE INDEX placed_recipient_community ON placed_recipient (community);
CREATE INDEX placed_recipient_project ON placed_recipient (project);

-- A key that was retired is still known: files may be encrypted to it.
ALTER TABLE recipient ADD COLUMN retired BIGINT NOT NULL DEFAULT 0;
