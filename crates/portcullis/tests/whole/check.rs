//! `portcullis check`: exit code, places, suggestions, JSON.

use portcullis_testkit::Process;
use serde_json::Value;

use super::harness::{Place, SOON, listen, local, ours_only, portcullis};

/// Exit code, stdout, stderr.
#[track_caller]
fn check(config: &str, options: &[&str]) -> (i32, String, String) {
    let place = Place::new();
    let file = place.write("test.cfg", config);
    let mut process = Process::spawn(
        portcullis()
            .args(["check", "--offline", "-f"])
            .arg(file)
            .args(options),
    );
    let code = process.exit_code(SOON);
    (code, process.stdout(), process.stderr())
}

fn good() -> String {
    listen("127.0.0.1:8000", &[local(9001)])
}

/// One mistake a row: what is added to a good file, and what must be said.
const MISTAKES: &[(&str, &str, &[&str])] = &[
    (
        "a misspelt keyword",
        "    timout client 5s\n",
        &["timout", "timeout"],
    ),
    (
        "a misspelt bind word",
        "    bind :8002 shard 4\n",
        &["shard", "did you mean `shards`"],
    ),
    (
        "a missing argument",
        "    server only-a-name\n",
        &["server"],
    ),
    (
        "an unknown backend",
        "frontend f\n    bind :8003\n    default_backend nowhere\n",
        &["nowhere"],
    ),
    (
        "a bad time",
        "    timeout connect 5parsecs\n",
        &["5parsecs"],
    ),
    ("a bad port", "    bind :99999\n", &["99999"]),
    (
        "not supported yet",
        "    use_backend front if TRUE\n",
        &["use_backend", "not supported yet"],
    ),
    (
        "mode http",
        "listen web\n    mode http\n    bind :8004\n    server a 127.0.0.1:1\n",
        &["http"],
    ),
];

#[test]
fn a_good_file_passes_and_opens_nothing() {
    if ours_only() {
        return;
    }
    // The port is held: a check that opened it would fail.
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = listen(&held.local_addr().unwrap().to_string(), &[local(9001)]);
    let (code, stdout, stderr) = check(&config, &[]);
    assert_eq!(code, 0, "{stdout}{stderr}");
}

#[test]
fn each_mistake_is_refused_with_its_place_and_words() {
    if ours_only() {
        return;
    }
    for (label, added, texts) in MISTAKES {
        let (code, stdout, stderr) = check(&(good() + added), &[]);
        let said = stdout + &stderr;
        assert_eq!(code, 1, "{label}:\n{said}");
        for text in texts.iter().chain(&["test.cfg:"]) {
            assert!(
                said.contains(text),
                "{label}: does not say {text:?}:\n{said}"
            );
        }
    }
}

#[test]
fn all_mistakes_of_a_file_come_in_one_run_and_as_json() {
    if ours_only() {
        return;
    }
    // The last one is found by looking it up, which a mistake in the text must not prevent.
    let config = good()
        + "    timout client 5s\n    bind :8002 shard 4\n    server s no-such-host.invalid:1\n";
    let lines = config.lines().count() as u64;
    let (code, stdout, stderr) = check(&config, &["--json"]);
    assert_eq!(code, 1, "{stderr}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON and nothing else on stdout");
    assert_eq!(report["valid"], false);
    let errors: Vec<_> = report["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|diagnostic| diagnostic["severity"] == "error")
        .collect();
    let places = errors.iter().map(|error| {
        (
            error["line"].as_u64().unwrap(),
            error["column"].as_u64().unwrap(),
        )
    });
    assert_eq!(
        places.collect::<Vec<_>>(),
        [(lines - 2, 5), (lines - 1, 16), (lines, 14)],
        "{stdout}"
    );
    for error in errors {
        assert!(
            error["file"].as_str().unwrap().ends_with("test.cfg"),
            "{error}"
        );
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
    }
    let (code, stdout, _) = check(&good(), &["--json"]);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &report["valid"]), (0, &Value::Bool(true)));
}

#[test]
fn debians_own_file_with_a_tcp_section_added_passes() {
    if ours_only() {
        return;
    }
    let Ok(debian) = std::fs::read_to_string("/etc/haproxy/haproxy.cfg") else {
        return portcullis_testkit::skip("needs /etc/haproxy/haproxy.cfg (Debian's haproxy)");
    };
    let added = "
listen postgres
    mode tcp
    option tcplog
    bind 127.0.0.1:5432
    server one 127.0.0.1:9001
";
    let (code, stdout, stderr) = check(&(debian + added), &[]);
    assert_eq!(code, 0, "{stdout}{stderr}");
}

#[test]
fn several_files_and_a_directory_are_one_configuration() {
    if ours_only() {
        return;
    }
    let place = Place::new();
    let first = place.write("first.cfg", super::harness::DEFAULTS);
    let directory = place.path().join("conf.d");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(
        directory.join("10-front.cfg"),
        "frontend f\n bind 127.0.0.1:8000\n default_backend b\n",
    )
    .unwrap();
    std::fs::write(
        directory.join("20-back.cfg"),
        "backend b\n server s 127.0.0.1:9001\n",
    )
    .unwrap();
    std::fs::write(directory.join("notes.txt"), "this is no configuration\n").unwrap();
    let run = |second: &std::path::Path| {
        let mut process = Process::spawn(
            portcullis()
                .arg("check")
                .arg("--offline")
                .arg("-f")
                .arg(&first)
                .arg("-f")
                .arg(second),
        );
        (process.exit_code(SOON), process.transcript())
    };
    let (code, said) = run(&directory);
    assert_eq!(code, 0, "{said}");
    // Without the file that has the backend, the name is unknown, and its place is named.
    let (code, said) = run(&directory.join("10-front.cfg"));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("10-front.cfg:3:18"), "{said}");
}

#[test]
fn a_file_of_nonsense_is_refused_without_a_panic() {
    if ours_only() {
        return;
    }
    let mut random = super::bytes::Stream::new(3);
    for turn in 0..8 {
        let mut nonsense = vec![0; 3000];
        random.fill(&mut nonsense);
        let place = Place::new();
        let file = place.path().join("nonsense.cfg");
        std::fs::write(&file, &nonsense).unwrap();
        let mut process =
            Process::spawn(portcullis().args(["check", "--offline", "-f"]).arg(&file));
        assert_eq!(
            process.exit_code(SOON),
            1,
            "seed 3, turn {turn}: {}",
            process.transcript()
        );
        assert!(
            !process.stderr().contains("panicked"),
            "{}",
            process.transcript()
        );
    }
}

#[test]
fn one_mistake_is_one_finding() {
    if ours_only() {
        return;
    }
    let place = Place::new();
    for (line, code) in [
        ("server s1 127.0.0.1 check", "check-without-port"),
        ("server s1 :9001 check", "unusable-check"),
        ("server s1 /tmp/s check port 80", "unusable-check"),
        (
            "server s1 127.0.0.1:9001 source 127.0.0.1:200-100",
            "bad-value",
        ),
        ("server s1 127.0.0.1:9001 weight 300", "number-out-of-range"),
        ("balance leastcon", "bad-value"),
        ("option redispach", "unknown-keyword"),
        ("timeout queue 5x", "unknown-unit"),
        ("log ring@nowhere local0", "unknown-ring"),
        ("default_backend gone", "unknown-backend"),
    ] {
        let text = listen("127.0.0.1:8000", &[local(9001)]).replace(" s1 ", " s0 ");
        let file = place.write("test.cfg", &format!("{text}    {line}\n"));
        let mut command = portcullis();
        let output = command
            .args(["check", "--offline", "--json", "-f"])
            .arg(file)
            .output();
        let read: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
        let found = read["diagnostics"].as_array().unwrap();
        let codes: Vec<&str> = found
            .iter()
            .map(|it| it["code"].as_str().unwrap())
            .collect();
        assert_eq!(codes, [code], "{line}");
    }
}
