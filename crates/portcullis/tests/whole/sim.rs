//! `portcullis sim`: the scenarios in the model, on this kernel, and on both.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use portcullis_testkit::Process;

use super::harness::{Place, SOON, portcullis};

/// Exit code, stdout, stderr.
#[track_caller]
fn sim(arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = portcullis();
    command.arg("sim").args(arguments).stdin(Stdio::piped());
    let mut process = Process::spawn_with_stdin(&mut command);
    let mut stdin = process.child_mut().stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let code = process.exit_code(Duration::from_secs(120).max(SOON));
    (code, process.stdout(), process.stderr())
}

fn cases() -> String {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../kernel-model/cases");
    directory.canonicalize().unwrap().display().to_string()
}

/// Whether this host runs the kernel that the model was compared with, and lets us have a network.
fn live_works() -> bool {
    let (_, stdout, _) = sim(&["--live", "-"], "kernel 6.18\nsocket a inet\n");
    if stdout.contains("skipped") {
        eprintln!("skipped: {stdout}");
        return false;
    }
    true
}

#[test]
fn every_case_is_the_same_in_the_model_and_on_this_kernel() {
    if !live_works() {
        return;
    }
    let (code, stdout, stderr) = sim(&["-q", "--both", &cases()], "");
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let last = stdout.lines().last().unwrap();
    assert!(last.contains("0 steps failed, 0 differences"), "{last}");
}

#[test]
fn a_model_of_another_kernel_differs_from_this_one() {
    if !live_works() {
        return;
    }
    let script = "socket a inet\na set incoming-cpu 0 -> any\n";
    let (code, stdout, _) = sim(&["-q", "--both", "--kernel", "3.10", "-"], script);
    assert_eq!(code, 1, "{stdout}");
    // On a machine too busy for two quick runs there is no verdict, which is a failure too.
    assert!(stdout.contains("model and kernel differ"), "{stdout}");
    let (code, stdout, _) = sim(&["-q", "--both", "-"], script);
    assert_eq!(code, 0, "{stdout}");
}

#[test]
fn a_release_that_no_live_kernel_confirmed_is_told_once() {
    let note = |release: &str| {
        format!(
            "note: transcribed, not verified: the model of Linux {release} (no live kernel of such a \
             release, with the same changes, was compared with it)\n"
        )
    };
    let table = [
        ("3.10", "socket a inet\nsocket b inet\n", note("3.10")),
        ("99.1", "socket a inet\n", note("99.1")),
        ("6.18", "kernel 4.4\nsocket a inet\n", note("4.4")),
        ("6.18", "socket a inet\n", String::new()),
        ("6.1", "socket a inet\n", String::new()),
        // Later updates brought changes that this one lacks.
        ("6.1.20", "socket a inet\n", note("6.1.20")),
        ("6.1.192", "socket a inet\n", String::new()),
    ];
    for (release, script, told) in table {
        for explain in [&[][..], &["--explain"]] {
            let arguments = [&["--kernel", release, "-"], explain].concat();
            let (code, _, stderr) = sim(&arguments, script);
            assert_eq!((code, stderr), (0, told.clone()), "{release} {script}");
        }
    }
    // Of several files, one line for all.
    let (code, _, stderr) = sim(&["-q", &cases()], "");
    assert_eq!((code, stderr.lines().count()), (0, 1), "{stderr}");
}

#[test]
fn an_expectation_that_does_not_hold_is_exit_code_1_in_each_world() {
    let script = "port web\nsocket a inet\na bind 127.0.0.1:web -> EADDRINUSE\n";
    let (code, stdout, _) = sim(&["-"], script);
    assert_eq!(code, 1, "{stdout}");
    assert!(
        stdout.contains("the model was expected to answer EADDRINUSE"),
        "{stdout}"
    );
    if live_works() {
        let (code, stdout, _) = sim(&["--live", "-"], script);
        assert_eq!(code, 1, "{stdout}");
        assert!(
            stdout.contains("the kernel was expected to answer EADDRINUSE"),
            "{stdout}"
        );
    }
}

#[test]
fn explanations_name_the_rule_the_socket_and_the_way_out() {
    let script = "port web\nsocket a inet\nsocket b inet\na bind 0.0.0.0:web\nb bind 0.0.0.0:web -> EADDRINUSE\n";
    let (code, stdout, _) = sim(&["--explain", "-"], script);
    assert_eq!(code, 0, "{stdout}");
    for part in [
        "rule port-held:",
        "socket: a",
        "it succeeds if you: use port",
        "or: close a",
    ] {
        assert!(stdout.contains(part), "{part} is missing:\n{stdout}");
    }
}

#[test]
fn explanations_name_the_kernel_that_the_model_is() {
    let script = "socket a inet\na bind 0.0.0.0:0\na close\na close -> EBADF\n";
    let named = |arguments: &[&str], release: &str| {
        let (code, stdout, _) = sim(arguments, script);
        assert_eq!(code, 0, "{stdout}");
        let told = stdout.lines().filter(|line| line.contains("kernel: "));
        let told: Vec<&str> = told.collect();
        assert!(!told.is_empty(), "{stdout}");
        let right = told
            .iter()
            .all(|line| line.contains(&format!(", in {release};")));
        assert!(right, "{release} in {stdout}");
    };
    named(&["--explain", "-"], "6.18");
    named(&["--explain", "--kernel", "4.4", "-"], "4.4");
    if live_works() {
        // Beside the running kernel the model is that kernel, with its update, unless one is asked for.
        let running = portcullis_conformance::worker::running_kernel().unwrap();
        named(&["--explain", "--both", "-"], &running.to_string());
        named(&["--explain", "--both", "--kernel", "6.17", "-"], "6.17");
    }
}

#[test]
fn a_scenario_with_a_mistake_shows_the_place() {
    let (code, _, stderr) = sim(&["-"], "socket a inet\na bnid 0.0.0.0:1\n");
    assert_eq!(code, 1);
    for part in [
        "standard input:2:3",
        "a bnid 0.0.0.0:1",
        "^^^^ did you mean `bind`?",
    ] {
        assert!(stderr.contains(part), "{part} is missing:\n{stderr}");
    }
}

#[test]
fn blocks_that_are_too_deep_are_told_and_laid_out() {
    let deep = "repeat 1 times\n".repeat(20_000) + &"end\n".repeat(20_000);
    let (code, _, stderr) = sim(&["-"], &deep);
    assert_eq!(code, 1);
    assert!(stderr.contains("more than 16 `repeat` blocks"), "{stderr}");
    let (code, stdout, _) = sim(&["--format", "-"], &deep);
    assert_eq!((code, stdout.lines().count()), (0, 40_000));
}

#[test]
fn as_many_sockets_as_a_script_may_have_take_seconds() {
    // Looking for a name among all names made this a hundred times slower than reading it takes.
    let script = "port web\nsocket first inet\nfirst bind 127.0.0.1:web\nrepeat 49998 times\n  socket s{i} inet\n  \
                  s{i} bind 127.0.0.1:web -> EADDRINUSE because of first\nend\n";
    let begun = std::time::Instant::now();
    let (code, stdout, _) = sim(&["-q", "-"], script);
    let took = begun.elapsed();
    assert_eq!(code, 0, "{stdout}");
    assert!(
        stdout.ends_with("99998 steps, 0 steps failed\n"),
        "{stdout}"
    );
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn a_host_without_enough_descriptors_says_how_many_it_takes() {
    if !live_works() {
        return;
    }
    let binary = portcullis().get_program().to_owned();
    let mut command = std::process::Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -Hn 200; ulimit -n 200; exec \"$0\" sim --live -",
        ])
        .arg(binary)
        .stdin(Stdio::piped());
    let mut process = Process::spawn_with_stdin(&mut command);
    let mut stdin = process.child_mut().stdin.take().unwrap();
    stdin.write_all(b"socket a inet\n").unwrap();
    drop(stdin);
    let code = process.exit_code(SOON);
    let told = "its host cannot be made: it takes descriptors from 500 on, and the limit is 200 (ulimit -Hn)";
    let stdout = process.stdout();
    assert!(code == 1 && stdout.contains(told), "{code} {stdout}");
}

#[test]
fn formatting_rewrites_a_file_once() {
    let place = Place::new();
    let file = place.write(
        "untidy.bind",
        "socket   a inet\na   close->ok\na close   -> EBADF\n",
    );
    let path = file.display().to_string();
    let (code, stdout, _) = sim(&["--format", &path], "");
    assert_eq!((code, stdout.trim()), (0, path.as_str()));
    let (code, stdout, _) = sim(&["--format", &path], "");
    assert_eq!((code, stdout.as_str()), (0, ""), "it is tidy by now");
}
