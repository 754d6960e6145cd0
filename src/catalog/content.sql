-- What the second format adds: the content store that the catalogue belongs to, which objects it
-- has, which of them each version needs, and who works with them now. See `content.rs`.

-- One row. The clock counts every change of what follows; it is what those who make them queue
-- up at, and it tells what came before what. `bound` is 1 once the store knows its catalogue.
CREATE TABLE store (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL,
  location TEXT NOT NULL,
  bound BIGINT NOT NULL,
  clock BIGINT NOT NULL
);

-- Packs and roots. `state` is uploading, live, condemned, deleting or deleted, `since` the time
-- it was entered; `durable` is 1 once all bytes are known to have arrived; `condemned` is the
-- clock when it was condemned last. A row that is deleted stays: its name is never used again.
CREATE TABLE object (
  id TEXT PRIMARY KEY,
  area TEXT NOT NULL,
  bytes BIGINT NOT NULL,
  state TEXT NOT NULL,
  since BIGINT NOT NULL,
  durable BIGINT NOT NULL,
  condemned BIGINT NOT NULL
);

CREATE INDEX object_state ON object (state);

-- The objects that a root needs, itself among them.
CREATE TABLE need (
  root TEXT NOT NULL,
  object TEXT NOT NULL,
  PRIMARY KEY (root, object)
);

CREATE INDEX need_object ON need (object);

-- A process that writes or reads. `began` is the clock when it began; what it uses stays until
-- `expires`, a time of the database.
CREATE TABLE lease (
  id TEXT PRIMARY KEY,
  role TEXT NOT NULL,
  user_name TEXT NOT NULL,
  host TEXT NOT NULL,
  process TEXT NOT NULL,
  began BIGINT NOT NULL,
  expires BIGINT NOT NULL
);

-- What a writer is putting into the store.
CREATE TABLE lease_object (
  lease TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
  object TEXT NOT NULL,
  PRIMARY KEY (lease, object)
);

CREATE INDEX lease_object_object ON lease_object (object);

-- What a reader has open.
CREATE TABLE lease_root (
  lease TEXT NOT NULL REFERENCES lease (id) ON DELETE CASCADE,
  root TEXT NOT NULL,
  PRIMARY KEY (lease, root)
);

CREATE INDEX lease_root_root ON lease_root (root);

-- Who published a version: asked twice to, a writer publishes once.
ALTER TABLE version ADD COLUMN writer TEXT;

CREATE UNIQUE INDEX version_writer ON version (writer);

CREATE INDEX version_root ON version (root);

INSERT INTO store (id, name, location, bound, clock) VALUES (1, '', '', 0, 0);
