-- The registry. Times are milliseconds since 1970. Every table has a number n that rises with creation and is never given
-- twice, by which ties are broken; an index ends with it by itself. Record ids are UUIDs and rise likewise.

CREATE TABLE organisation (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE board (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    organisation INTEGER NOT NULL REFERENCES organisation (n),
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    soc TEXT NOT NULL,
    public INTEGER NOT NULL,
    -- JSON, as in the REST contract.
    metadata_fields TEXT NOT NULL,
    UNIQUE (organisation, name)
) STRICT;

CREATE TABLE network (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    organisation INTEGER NOT NULL REFERENCES organisation (n),
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    network_id INTEGER NOT NULL UNIQUE,
    public INTEGER NOT NULL,
    key BLOB NOT NULL
) STRICT;

CREATE INDEX network_by_organisation ON network (organisation, created_at);

CREATE TABLE device (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    organisation INTEGER NOT NULL REFERENCES organisation (n),
    board INTEGER NOT NULL REFERENCES board (n),
    -- The 64 bits with the first one flipped, so that they sort as they do without a sign.
    device_id INTEGER NOT NULL UNIQUE,
    -- That of the board, for the uniqueness of the hardware.
    soc TEXT NOT NULL,
    -- In lower case.
    mcu_id TEXT NOT NULL,
    -- JSON, as in the REST contract, like the two states.
    metadata TEXT NOT NULL,
    initial_state TEXT,
    -- As it was last set, '{}' if nothing was said.
    state TEXT NOT NULL,
    state_updated_at INTEGER NOT NULL,
    -- What the device was registered with, if that was a public key.
    key_public BLOB,
    -- The root key, if a key is known, and the key id of its frames, if that is.
    key_root BLOB,
    key_id INTEGER,
    UNIQUE (soc, mcu_id)
) STRICT;

CREATE INDEX device_by_created_at ON device (organisation, created_at);
CREATE INDEX device_by_updated_at ON device (organisation, updated_at);
CREATE INDEX device_by_device_id ON device (organisation, device_id);
CREATE INDEX device_by_mcu_id ON device (organisation, mcu_id);
CREATE INDEX device_by_board ON device (organisation, board);
CREATE INDEX device_of_board ON device (board, created_at);

-- The metadata of devices, once more, for filters and uniqueness.
CREATE TABLE device_metadata (
    device INTEGER NOT NULL REFERENCES device (n) ON DELETE CASCADE,
    -- That of the device.
    board INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    -- Whether the board wants no two values the same.
    is_unique INTEGER NOT NULL,
    PRIMARY KEY (device, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX device_metadata_by_value ON device_metadata (name, value, device);
CREATE UNIQUE INDEX device_metadata_unique ON device_metadata (board, name, value) WHERE is_unique;

CREATE TABLE api_key (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    name TEXT NOT NULL,
    -- None: all.
    organisation INTEGER REFERENCES organisation (n),
    -- 'read' or 'write'.
    access TEXT NOT NULL,
    expires_at INTEGER,
    -- SHA-256 of the key.
    digest BLOB NOT NULL UNIQUE
) STRICT;

CREATE TABLE setting (
    name TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;
