-- What the fifth format adds: which account of a machine a member works from.

CREATE TABLE account (
  organization TEXT NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
  uid BIGINT NOT NULL,
  user_name TEXT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  PRIMARY KEY (organization, uid)
);

CREATE INDEX account_user ON account (organization, user_name);
