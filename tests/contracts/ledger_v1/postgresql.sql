CREATE TABLE events (
    id BIGSERIAL NOT NULL,
    model_key VARCHAR COLLATE "C" NOT NULL,
    event_type VARCHAR COLLATE "C" NOT NULL,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    commit_sha VARCHAR COLLATE "C" NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (id)
);

CREATE INDEX events_by_model ON events (model_key, id);

CREATE TABLE loop (
    id INTEGER NOT NULL,
    base BIGINT NOT NULL,
    revision VARCHAR COLLATE "C",
    PRIMARY KEY (id)
);

CREATE TABLE models (
    model_key VARCHAR COLLATE "C" NOT NULL,
    user_id VARCHAR COLLATE "C" NOT NULL,
    suffix VARCHAR COLLATE "C" NOT NULL,
    state VARCHAR COLLATE "C" NOT NULL,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    updated_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    commit_sha VARCHAR COLLATE "C" NOT NULL,
    serving_commit_sha VARCHAR COLLATE "C",
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
    seen_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    status TEXT NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE schema_version (
    id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (id)
);

CREATE TABLE users (
    user_id VARCHAR COLLATE "C" NOT NULL,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    PRIMARY KEY (user_id)
);

CREATE TABLE tokens (
    token_id VARCHAR COLLATE "C" NOT NULL,
    user_id VARCHAR COLLATE "C" NOT NULL,
    digest BYTEA NOT NULL,
    created_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    expires_at TIMESTAMP WITHOUT TIME ZONE NOT NULL,
    revoked_at TIMESTAMP WITHOUT TIME ZONE,
    PRIMARY KEY (token_id),
    FOREIGN KEY(user_id) REFERENCES users (user_id)
);

CREATE INDEX tokens_by_user ON tokens (user_id, token_id);

INSERT INTO schema_version (id, version) VALUES (1, 1);

INSERT INTO loop (id, base, revision) VALUES (1, 41, 'cccccccccccccccccccccccccccccccccccccccc');

INSERT INTO nudges (id, count) VALUES (1, 7);

INSERT INTO users (user_id, created_at) VALUES ('alice', '2026-11-22 12:00:00.000000');
