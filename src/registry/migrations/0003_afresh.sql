-- What was heard of a device before it was registered.

-- Whether that is none of its own: it was registered for one organisation.
ALTER TABLE device ADD COLUMN afresh INTEGER NOT NULL DEFAULT 0;
