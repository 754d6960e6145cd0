-- What the fourth format adds: in which home the files of a project are, who has them mounted, and
-- how much of them checkpoints take.

-- `home` is the name of a home, `host_name` and `place` are for people. While `lease` isn't empty
-- and hasn't lapsed, a process has the files mounted.
CREATE TABLE storage (
  project TEXT PRIMARY KEY REFERENCES project (id) ON DELETE CASCADE,
  home TEXT NOT NULL,
  host_name TEXT NOT NULL,
  lease TEXT NOT NULL,
  place TEXT NOT NULL,
  host TEXT NOT NULL,
  process TEXT NOT NULL,
  expires BIGINT NOT NULL
);

ALTER TABLE project ADD COLUMN checkpoint_gib BIGINT;
