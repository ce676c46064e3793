-- Messages to devices, and more of their keys.

-- Whether the key was proved by the device rather than given.
ALTER TABLE device ADD COLUMN key_learned INTEGER NOT NULL DEFAULT 0;
-- A second key, that of this gateway where the first one is of another cloud: the device's public key and the root made of it.
ALTER TABLE device ADD COLUMN second_public BLOB;
ALTER TABLE device ADD COLUMN second_root BLOB;
ALTER TABLE device ADD COLUMN second_learned INTEGER NOT NULL DEFAULT 0;

-- The last answer of a device to the question for its keys.
CREATE TABLE security_state (
    device INTEGER PRIMARY KEY REFERENCES device (n) ON DELETE CASCADE,
    answered_at INTEGER NOT NULL,
    cloud_public BLOB NOT NULL,
    device_public BLOB NOT NULL,
    network_id INTEGER NOT NULL,
    challenge BLOB NOT NULL,
    response_type INTEGER NOT NULL,
    response BLOB NOT NULL,
    -- If the response could be opened.
    hardware_id BLOB
) STRICT;

-- Keys that wait for confirmation.
CREATE TABLE held_key (
    device INTEGER PRIMARY KEY REFERENCES device (n) ON DELETE CASCADE,
    device_public BLOB NOT NULL,
    -- Whether it is for the second key.
    is_second INTEGER NOT NULL,
    -- 'changed', 'given' or 'hardware'.
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    hardware_id BLOB NOT NULL
) STRICT;

CREATE TABLE message (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    downlink_id BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    device INTEGER NOT NULL REFERENCES device (n) ON DELETE CASCADE,
    -- Those of the device, which never change.
    organisation INTEGER NOT NULL,
    device_id INTEGER NOT NULL,
    packet_type INTEGER NOT NULL,
    -- 'best', 'network' or 'device'.
    sealing TEXT NOT NULL,
    -- As it was sent: 'network' or 'device'.
    level TEXT,
    -- Of calls: the header.
    request_id INTEGER,
    command_id INTEGER,
    data_size INTEGER,
    data_period INTEGER,
    payload BLOB NOT NULL,
    -- Bytes of data in message_data, in either direction.
    data_len INTEGER,
    received_len INTEGER,
    wait_ms INTEGER NOT NULL,
    -- Whether it is sent until it is answered.
    retry INTEGER NOT NULL,
    -- Both halves of a cursor, 64 bits each.
    if_epoch INTEGER,
    if_position INTEGER,
    -- 'waiting', 'sent' or 'completed'.
    status TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- As expires_at while it is yet to be sent, or sent again.
    send_before INTEGER,
    sent_at INTEGER,
    completed_at INTEGER,
    -- JSON, as in the REST contract, like the other one.
    route TEXT,
    answer_route TEXT,
    answer_code INTEGER,
    answer_body BLOB,
    note TEXT,
    terminated INTEGER
) STRICT;

-- An order of each list of an organisation.
CREATE INDEX message_by_created_at ON message (organisation, created_at);
CREATE INDEX message_by_updated_at ON message (organisation, updated_at);
CREATE INDEX message_by_expires_at ON message (organisation, expires_at);
CREATE INDEX message_by_sent_at ON message (organisation, sent_at);
CREATE INDEX message_by_completed_at ON message (organisation, completed_at);
-- These are filters too.
CREATE INDEX message_by_status ON message (organisation, status, created_at);
CREATE INDEX message_by_command ON message (organisation, command_id, created_at);
CREATE INDEX message_by_device_id ON message (organisation, device_id, created_at);
-- The same for who sees all. The first is for what is to be forgotten too.
CREATE INDEX message_of_all ON message (created_at);
CREATE INDEX message_of_all_by_updated_at ON message (updated_at);
CREATE INDEX message_of_all_by_expires_at ON message (expires_at);
CREATE INDEX message_of_all_by_sent_at ON message (sent_at);
CREATE INDEX message_of_all_by_completed_at ON message (completed_at);
CREATE INDEX message_of_all_by_status ON message (status, created_at);
CREATE INDEX message_of_all_by_command ON message (command_id, created_at);
CREATE INDEX message_of_all_by_device_id ON message (device_id, created_at);
CREATE INDEX message_of_device ON message (device, created_at);
CREATE INDEX message_of_call ON message (device, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX message_to_send ON message (n, send_before) WHERE send_before IS NOT NULL;

CREATE TABLE message_data (
    message INTEGER PRIMARY KEY REFERENCES message (n) ON DELETE CASCADE,
    -- For the device, as long as it is to be sent.
    to_send BLOB,
    -- From the device.
    received BLOB
) STRICT;

-- What is to be forgotten once it is not to be sent any more.
CREATE INDEX message_data_to_send ON message_data (message) WHERE to_send IS NOT NULL;
