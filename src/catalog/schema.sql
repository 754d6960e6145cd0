-- The catalogue, for SQLite and PostgreSQL alike: times are microseconds since 1970 in UTC,
-- truths are 0 or 1, roles and kinds are words, specs are JSON.

CREATE TABLE revision (
  id BIGINT PRIMARY KEY,
  value BIGINT NOT NULL
);

CREATE TABLE organization (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL UNIQUE,
  policy TEXT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  modified BIGINT NOT NULL
);

-- The members of an organization are those of its default community.
CREATE TABLE community (
  id TEXT PRIMARY KEY,
  organization TEXT NOT NULL REFERENCES organization (id),
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  is_default BIGINT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  modified BIGINT NOT NULL,
  UNIQUE (organization, name)
);

CREATE TABLE community_member (
  community TEXT NOT NULL REFERENCES community (id) ON DELETE CASCADE,
  user_name TEXT NOT NULL,
  role TEXT NOT NULL,
  PRIMARY KEY (community, user_name)
);

CREATE INDEX community_member_user ON community_member (user_name);

CREATE TABLE project (
  id TEXT PRIMARY KEY,
  community TEXT NOT NULL REFERENCES community (id),
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  quota_gib BIGINT,
  checkpoints BIGINT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  modified BIGINT NOT NULL,
  UNIQUE (community, name)
);

CREATE TABLE project_member (
  project TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
  user_name TEXT NOT NULL,
  role TEXT NOT NULL,
  PRIMARY KEY (project, user_name)
);

CREATE INDEX project_member_user ON project_member (user_name);

CREATE TABLE resource (
  id TEXT PRIMARY KEY,
  project TEXT NOT NULL REFERENCES project (id),
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT NOT NULL,
  spec TEXT NOT NULL,
  active BIGINT NOT NULL,
  versions BIGINT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  modified BIGINT NOT NULL,
  UNIQUE (project, kind, name)
);

CREATE TABLE version (
  resource TEXT NOT NULL REFERENCES resource (id) ON DELETE CASCADE,
  number BIGINT NOT NULL,
  root TEXT NOT NULL,
  files BIGINT NOT NULL,
  bytes BIGINT NOT NULL,
  active BIGINT NOT NULL,
  spec TEXT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  PRIMARY KEY (resource, number)
);

-- The body is ASCII: an environment file in the SOPS dotenv format, in base64.
CREATE TABLE environment (
  resource TEXT PRIMARY KEY REFERENCES resource (id) ON DELETE CASCADE,
  generation BIGINT NOT NULL,
  body TEXT NOT NULL
);

CREATE TABLE publication (
  resource TEXT NOT NULL REFERENCES resource (id),
  community TEXT NOT NULL REFERENCES community (id),
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  PRIMARY KEY (resource, community)
);

CREATE INDEX publication_community ON publication (community);

CREATE TABLE addition (
  project TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE,
  resource TEXT NOT NULL REFERENCES resource (id),
  active BIGINT NOT NULL,
  creator TEXT NOT NULL,
  created BIGINT NOT NULL,
  PRIMARY KEY (project, resource)
);

CREATE INDEX addition_resource ON addition (resource);

CREATE TABLE recipient (
  user_name TEXT NOT NULL,
  recipient TEXT NOT NULL,
  created BIGINT NOT NULL,
  PRIMARY KEY (user_name, recipient)
);

CREATE TABLE selection (
  user_name TEXT PRIMARY KEY,
  project TEXT NOT NULL REFERENCES project (id) ON DELETE CASCADE
);

INSERT INTO revision (id, value) VALUES (1, 0);
