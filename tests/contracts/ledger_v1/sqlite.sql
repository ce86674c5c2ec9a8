CREATE TABLE events (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    model_key VARCHAR NOT NULL,
    event_type VARCHAR NOT NULL,
    created_at DATETIME NOT NULL,
    commit_sha VARCHAR NOT NULL,
    event TEXT NOT NULL
);

CREATE INDEX events_by_model ON events (model_key, id);

CREATE TABLE loop (
    id INTEGER NOT NULL,
    base BIGINT NOT NULL,
    revision VARCHAR,
    PRIMARY KEY (id)
);

CREATE TABLE models (
    model_key VARCHAR NOT NULL,
    user_id VARCHAR NOT NULL,
    suffix VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    created_at DATETIME NOT NULL,
    updated_at DATETIME NOT NULL,
    commit_sha VARCHAR NOT NULL,
    serving_commit_sha VARCHAR,
    record TEXT NOT NULL,
    PRIMARY KEY (model_key)
);

CREATE INDEX models_by_user ON models (user_id, model_key);

CREATE TABLE nudges (
    id INTEGER NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE platform_status (
    id INTEGER NOT NULL,
    seen_at DATETIME NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE schema_version (
    id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE users (
    user_id VARCHAR NOT NULL,
    created_at DATETIME NOT NULL,
    PRIMARY KEY (user_id)
);

CREATE TABLE tokens (
    token_id VARCHAR NOT NULL,
    user_id VARCHAR NOT NULL,
    digest BLOB NOT NULL,
    created_at DATETIME NOT NULL,
    expires_at DATETIME NOT NULL,
    revoked_at DATETIME,
    PRIMARY KEY (token_id),
    FOREIGN KEY(user_id) REFERENCES users (user_id)
);

CREATE INDEX tokens_by_user ON tokens (user_id, token_id);

INSERT INTO schema_version (id, version) VALUES (1, 1);

INSERT INTO loop (id, base, revision) VALUES (1, 41, 'cccccccccccccccccccccccccccccccccccccccc');

INSERT INTO nudges (id, count) VALUES (1, 7);

INSERT INTO users (user_id, created_at) VALUES ('alice', '2026-11-22 12:00:00.000000');
