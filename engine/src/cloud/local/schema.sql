-- The local cloud's one file. Rows of one table, stream or queue are told apart by the number of its definition.

CREATE TABLE IF NOT EXISTS tables (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    keys TEXT NOT NULL,    -- JSON: names and types of the key attributes, which never change
    layout TEXT NOT NULL   -- JSON: what the columns of items and the rows of index_entries were made from
);

CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY,
    table_id INTEGER NOT NULL,
    pk TEXT NOT NULL,
    sk TEXT NOT NULL,      -- a numeric sort key as a text that sorts as its numbers do
    image TEXT NOT NULL,   -- DynamoDB JSON, with the key attributes
    ttl INTEGER,           -- epoch seconds
    UNIQUE (table_id, pk, sk)
);
CREATE INDEX IF NOT EXISTS items_by_ttl ON items (table_id, ttl) WHERE ttl IS NOT NULL;

CREATE TABLE IF NOT EXISTS index_entries (
    table_id INTEGER NOT NULL,
    index_no INTEGER NOT NULL,
    hash TEXT NOT NULL,
    range TEXT NOT NULL,
    pk TEXT NOT NULL,
    sk TEXT NOT NULL,
    item_id INTEGER NOT NULL,
    PRIMARY KEY (table_id, index_no, hash, range, pk, sk)
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS streams (
    id INTEGER PRIMARY KEY,
    table_id INTEGER NOT NULL,
    arn TEXT NOT NULL UNIQUE,
    disabled_ms INTEGER    -- none while it takes changes
);

-- A shard is a view of the log: the changes of a range of hashes between two sequence numbers.
CREATE TABLE IF NOT EXISTS shards (
    id INTEGER PRIMARY KEY,
    stream_id INTEGER NOT NULL,
    table_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    parent TEXT,
    hash_low INTEGER NOT NULL,
    hash_high INTEGER NOT NULL,
    start_seq INTEGER NOT NULL,
    end_seq INTEGER,       -- none while it is open
    opened_ms INTEGER NOT NULL,
    closed_ms INTEGER,
    trimmed_seq INTEGER NOT NULL DEFAULT 0,  -- the newest change that it lost to trimming
    UNIQUE (stream_id, name)
);
CREATE INDEX IF NOT EXISTS shards_open ON shards (table_id, hash_low) WHERE end_seq IS NULL;

CREATE TABLE IF NOT EXISTS changes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    shard_id INTEGER NOT NULL,
    old TEXT,
    new TEXT,
    created_secs INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    by_ttl INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_by_shard ON changes (shard_id);
-- The counter of changes: closing a shard takes a number from it too.
INSERT INTO sqlite_sequence (name, seq) SELECT 'changes', 0 WHERE NOT EXISTS (
    SELECT 1 FROM sqlite_sequence WHERE name = 'changes'
);

CREATE TABLE IF NOT EXISTS queues (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue_id INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    body TEXT NOT NULL,
    sent_ms INTEGER NOT NULL,
    visible_ms INTEGER NOT NULL,
    received_ms INTEGER,          -- the last time
    receives INTEGER NOT NULL,    -- in all queues: a receipt is one of them
    receives_here INTEGER NOT NULL,
    source_id INTEGER             -- the queue that a dead letter came from
);
CREATE INDEX IF NOT EXISTS messages_by_visibility ON messages (queue_id, visible_ms, receives_here);
