-- What the third format adds: names of versions, and how many datasets of a project may be active.

-- A name that somebody gave a version.
CREATE TABLE tag (
  resource TEXT NOT NULL,
  name TEXT NOT NULL,
  number BIGINT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  PRIMARY KEY (resource, name),
  FOREIGN KEY (resource, number) REFERENCES version (resource, number) ON DELETE CASCADE
);

CREATE INDEX tag_version ON tag (resource, number);

ALTER TABLE project ADD COLUMN active_datasets BIGINT;
