use super::*;

const NOTHING: [(&str, &str); 0] = [];

#[test]
fn an_empty_environment_is_a_working_configuration() {
    let config = Config::from_variables(NOTHING).unwrap();
    assert_eq!(config.port, 3000);
    assert!(!config.actors && config.auth.enforce_jti && config.auth.enforce_lxm);
    assert_eq!(config.auth.service_did.as_str(), "did:web:localhost%3A3000");
    assert_eq!((config.rates.per_did, config.rates.per_convo), (100, 500));
}

#[test]
fn operators_pages_are_public_unless_the_address_is_loopback_or_they_have_a_port() {
    let with = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap();
    assert!(!with(&[]).shows_operators_pages());
    assert!(with(&[("SERVER_HOST", "0.0.0.0")]).shows_operators_pages());
    let apart = with(&[("SERVER_HOST", "0.0.0.0"), ("ADMIN_PORT", "3001")]);
    assert!(!apart.shows_operators_pages());
    assert_eq!(apart.admin, Some(("127.0.0.1".to_owned(), 3001)));
}

#[test]
fn rate_limits_can_be_off_and_have_a_range() {
    let names = ["RATE_LIMIT_PER_DID", "RATE_LIMIT_PER_CONVO", "COMMITS_PER_MINUTE"];
    let off = Config::from_variables(names.map(|name| (name, "0"))).unwrap();
    assert_eq!(off.rates, Rates { per_did: 0, per_convo: 0, commits: 0 });
    for (name, text) in [("RATE_LIMIT_PER_DID", "100001"), ("RATE_LIMIT_PER_CONVO", "-1")] {
        let error = Config::from_variables([(name, text)]).unwrap_err().to_string();
        assert!(error.contains(&format!("{name} must be a whole number from 0 to 100000")), "{error}");
    }
}

#[test]
fn quotas_have_defaults_and_can_be_off() {
    let limits = |numbers: [u64; 8]| {
        let [stored_bytes, blob_bytes, convo_blob_bytes, blob_uploads, convos, strangers, invitations, key_packages] =
            numbers;
        QuotaLimits {
            stored_bytes,
            blob_bytes,
            convo_blob_bytes,
            blob_uploads,
            convos,
            strangers,
            invitations,
            key_packages,
        }
    };
    let most = limits([2_147_483_648, 1_073_741_824, 10_737_418_240, 16, 500, 2_000, 20, 10]);
    assert_eq!(Config::from_variables(NOTHING).unwrap().quotas, most);
    let names = [
        "STORED_BYTES_PER_DAY",
        "BLOB_BYTES_PER_DAY",
        "BLOB_BYTES_PER_CONVO",
        "BLOB_UPLOADS_PER_CALLER",
        "CONVOS_PER_DAY",
        "STRANGERS_PER_DAY",
        "INVITATIONS_PER_HOUR",
        "KEY_PACKAGES_PER_CALLER",
    ];
    let off = Config::from_variables(names.map(|name| (name, "0"))).unwrap().quotas;
    assert_eq!(off, limits([0; 8]));
}

#[test]
fn a_malformed_line_of_env_is_named_but_not_printed() {
    let said = |line: &str| unreadable(&dotenvy::Error::LineParse(line.to_owned(), 3));
    assert!(said("JWT_SECRET=\"hunter2 hunter2").contains("that of JWT_SECRET"));
    for line in ["JWT_SECRET=\"hunter2", "export A='hunter2", "hunter2", "hunter2 = 'x", "\"hunter2=x"] {
        assert!(!said(line).contains("hunter2") || line.starts_with("hunter2 ="), "{}", said(line));
    }
}

#[test]
fn a_redis_url_needs_a_scheme_of_redis() {
    for (url, good) in [("redis://x:6379", true), ("rediss://x", true), ("http://x", false), ("x:6379", false)] {
        assert_eq!(Config::from_variables([("REDIS_URL", url)]).is_ok(), good, "{url}");
    }
}

#[test]
fn retention_is_in_days_and_zero_is_for_ever() {
    let kept = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap().retention;
    assert_eq!(kept(&[]).messages, Some(TimeDelta::days(30)));
    assert_eq!(kept(&[]).events, Some(TimeDelta::days(7)));
    assert_eq!((kept(&[]).unread, kept(&[]).abandoned), (Some(TimeDelta::days(90)), Some(TimeDelta::days(180))));
    let forever = kept(&[("MESSAGE_TTL_DAYS", "0"), ("EVENT_STREAM_TTL_DAYS", "0")]);
    assert_eq!((forever.messages, forever.events), (None, None));
    assert!(Config::from_variables([("MESSAGE_TTL_DAYS", "-1")]).is_err());
}

#[test]
fn the_actor_flag_takes_four_spellings_and_refuses_the_rest() {
    for (text, actors) in [("true", true), ("1", true), ("false", false), ("0", false)] {
        assert_eq!(Config::from_variables([("ENABLE_ACTOR_SYSTEM", text)]).unwrap().actors, actors);
    }
    for text in ["TRUE", "yes", "on", "2"] {
        let error = Config::from_variables([("ENABLE_ACTOR_SYSTEM", text)]).unwrap_err().to_string();
        assert!(error.contains("ENABLE_ACTOR_SYSTEM must be true, 1, false or 0"), "{error}");
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let error = Config::from_variables([("SERVER_PORT", "x"), ("MLS_VALIDATION", "lax"), ("JWT_SECRET", "short")])
        .unwrap_err()
        .to_string();
    for name in ["SERVER_PORT", "MLS_VALIDATION", "JWT_SECRET"] {
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn the_public_url_defaults_to_the_host_of_the_did() {
    let url = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap().auth.public_url;
    assert_eq!(url(&[]), "http://localhost:3000");
    assert_eq!(url(&[("SERVICE_DID", "did:web:mls.catbird.blue")]), "https://mls.catbird.blue");
    assert_eq!(url(&[("SERVICE_DID", "did:web:mls.catbird.blue%3A8443:x")]), "https://mls.catbird.blue:8443");
    assert_eq!(url(&[("SERVICE_DID", "did:web:a.b"), ("PUBLIC_URL", "https://c.d/")]), "https://c.d");
}

#[test]
fn the_websocket_endpoint_defaults_to_the_public_url_and_tickets_need_a_secret() {
    let auth = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap().auth;
    let path = "/xrpc/blue.catbird.mls.subscribeConvoEvents";
    assert_eq!(auth(&[]).websocket_endpoint, format!("ws://localhost:3000{path}"));
    assert_eq!(auth(&[("PUBLIC_URL", "https://c.d/")]).websocket_endpoint, format!("wss://c.d{path}"));
    assert_eq!(auth(&[("WEBSOCKET_ENDPOINT", "wss://e.f/ws")]).websocket_endpoint, "wss://e.f/ws");
    let (one, two) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    assert_eq!(auth(&[]).ticket_secret, None);
    assert_eq!(auth(&[("JWT_SECRET", one)]).ticket_secret.as_deref(), Some(one));
    assert_eq!(auth(&[("JWT_SECRET", one), ("TICKET_SECRET", two)]).ticket_secret.as_deref(), Some(two));
    for (name, text) in [("TICKET_SECRET", "short"), ("WEBSOCKET_ENDPOINT", "https://e.f")] {
        let error = Config::from_variables([(name, text)]).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn development_tokens_need_leave_on_a_service_that_other_machines_reach() {
    let secret = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    let (everywhere, known) = (("SERVER_HOST", "0.0.0.0"), ("SERVICE_DID", "did:web:mls.catbird.blue"));
    for settings in [&[secret][..], &[secret, everywhere], &[secret, known], &[secret, known, ("SERVER_HOST", "::1")]] {
        let config = Config::from_variables(settings.iter().copied()).unwrap().to_serve().unwrap();
        assert!(config.unsafe_settings().is_empty(), "{settings:?}");
    }
    for did in [known.1, "did:web:localhost.example", "did:plc:abc"] {
        let config = Config::from_variables([secret, everywhere, ("SERVICE_DID", did)]).unwrap();
        let error = config.to_serve().unwrap_err().to_string();
        assert!(error.contains("ALLOW_DEVELOPMENT_TOKENS"), "{error}");
    }
    let allowed = Config::from_variables([secret, everywhere, known, ("ALLOW_DEVELOPMENT_TOKENS", "true")]).unwrap();
    assert_eq!(allowed.to_serve().unwrap().unsafe_settings().len(), 1);
    let without = Config::from_variables([everywhere, known]).unwrap().to_serve();
    assert!(without.is_ok(), "without a secret there is nothing to allow");
}

#[test]
fn every_unsafe_setting_is_named() {
    for (name, value) in [
        ("ENFORCE_LXM", "false"),
        ("ENFORCE_JTI", "false"),
        ("ALLOW_PRIVATE_DID_HOSTS", "true"),
        ("ALLOW_PRIVATE_MAILBOX_HOSTS", "true"),
        ("MLS_VALIDATION", "framing"),
        ("PLC_DIRECTORY_URL", "http://plc.example"),
    ] {
        let named = Config::from_variables([(name, value)]).unwrap().unsafe_settings();
        assert!(named.len() == 1 && named[0].setting.starts_with(name), "{named:?}");
    }
    for url in ["https://plc.example", "http://127.0.0.1:2582", "http://localhost:2582", "http://[::1]:2582"] {
        let named = Config::from_variables([("PLC_DIRECTORY_URL", url)]).unwrap().unsafe_settings();
        assert!(named.is_empty(), "{named:?}");
    }
}

#[test]
fn secrets_can_be_read_from_files() {
    let path = std::env::temp_dir().join(format!("catbird-config-{}", ulid::Ulid::new()));
    let text = path.to_str().unwrap().to_owned();
    let file = |contents: &str| std::fs::write(&path, contents).unwrap();
    file("postgres://user:hunter2@db/catbird\r\n");
    let config = Config::from_variables([("DATABASE_URL_FILE", text.as_str())]).unwrap();
    assert_eq!(config.database_url.as_deref(), Some("postgres://user:hunter2@db/catbird"));
    file(" a secret of 32 bytes, with spaces ");
    let config = Config::from_variables([("TICKET_SECRET_FILE", text.as_str())]).unwrap();
    assert_eq!(config.auth.ticket_secret.as_deref(), Some(" a secret of 32 bytes, with spaces "));

    let refused = |settings: &[(&str, &str)]| Config::from_variables(settings.iter().copied()).unwrap_err().to_string();
    let both = refused(&[("JWT_SECRET_FILE", &text), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")]);
    assert!(both.contains("JWT_SECRET and JWT_SECRET_FILE are both set"), "{both}");
    file("\n");
    assert!(refused(&[("DATABASE_URL_FILE", &text)]).contains("is empty"), "never the embedded one by accident");
    std::fs::remove_file(&path).unwrap();
    assert!(refused(&[("REDIS_URL_FILE", &text)]).contains("REDIS_URL_FILE"));
}

#[test]
fn secrets_are_never_printed() {
    let secret = "0123456789abcdef0123456789abcdef";
    let ticket = "fedcba9876543210fedcba9876543210";
    let url = "postgres://user:hunter2@db/catbird";
    let headers = "authorization=Bearer hunter3";
    let settings = [("JWT_SECRET", secret), ("TICKET_SECRET", ticket), ("DATABASE_URL", url)];
    let traces = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://t.example"), ("OTEL_EXPORTER_OTLP_HEADERS", headers)];
    let config = Config::from_variables(settings.into_iter().chain(traces)).unwrap();
    assert_eq!(config.traces.as_ref().unwrap().headers["authorization"], "Bearer hunter3");
    let shown = format!("{:?}{:?}{:?}", config.in_effect(), config.auth, config.traces);
    for secret in [secret, ticket, "hunter2", "hunter3"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn every_row_of_the_table_is_read_and_every_value_at_the_end_of_a_range_is_accepted() {
    let names: Vec<&str> = table::settings().map(|setting| setting.name).collect();
    for end in [0, 1] {
        let at_the_end = table::settings().filter_map(|setting| match setting.kind {
            table::Kind::Number(min, max) => Some((setting.name, [min, max][end].to_string())),
            _ => None,
        });
        let config = Config::from_variables(at_the_end).unwrap();
        let read: Vec<&str> = config.in_effect().iter().map(|(name, _)| *name).collect();
        assert_eq!(read, names);
    }
}

#[test]
fn traces_need_an_endpoint_and_their_settings_are_checked_without_one() {
    assert!(Config::from_variables(NOTHING).unwrap().traces.is_none());
    for (name, bad) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Bearer x"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a header=x"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
    ] {
        let error = Config::from_variables([(name, bad)]).unwrap_err().to_string();
        assert!(error.contains(name), "{bad}: {error}");
    }
}

#[test]
fn a_default_is_what_is_printed_and_is_accepted() {
    let config = Config::from_variables(NOTHING).unwrap();
    for (setting, (_, printed)) in table::settings().zip(config.in_effect()) {
        if let table::Default::Value(default) = setting.default {
            assert_eq!((setting.kind.check(default), printed.as_str()), (Ok(()), default), "{}", setting.name);
        }
    }
}

#[test]
fn a_setting_that_holds_a_secret_is_marked_as_one() {
    for setting in table::settings() {
        let holds_one = matches!(
            setting.kind,
            table::Kind::Secret
                | table::Kind::PostgresUrl
                | table::Kind::RedisUrl
                | table::Kind::Headers
                | table::Kind::Credential
        );
        assert_eq!(setting.is_secret, holds_one, "{}", setting.name);
    }
}

#[test]
fn settings_that_replicas_share_are_complete_and_their_secrets_are_hashed() {
    let secret = "0123456789abcdef0123456789abcdef";
    let config = Config::from_variables([("JWT_SECRET", secret), ("MESSAGE_EPOCH_WINDOW", "2")]).unwrap();
    let shared = config.shared(|secret| format!("hash of {} bytes", secret.len()));
    let hash = "hash of 32 bytes";
    let of = |name: &str| shared[name].as_str();
    assert_eq!((of("JWT_SECRET"), of("TICKET_SECRET"), of("REDIS_URL")), (hash, hash, "none"));
    assert_eq!((of("MESSAGE_EPOCH_WINDOW"), of("MAX_DEVICES")), ("2", "10"));
    assert!(!shared.contains_key("DATABASE_URL") && !format!("{shared:?}").contains(secret), "{shared:?}");
}
