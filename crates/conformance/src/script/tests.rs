//! What is wrong with a script is told where it is wrong; what does not hold is found.

use super::*;

/// One mistake a row: the script, where it is (line:column), and what must be said.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    (
        "a misspelt call",
        "socket a inet\na bnid 0.0.0.0:1",
        "2:3",
        "did you mean `bind`?",
    ),
    (
        "a misspelt item",
        "sokcet a inet",
        "1:1",
        "did you mean `socket`?",
    ),
    (
        "a socket that was never made",
        "socket web inet\nwbe bind 0.0.0.0:1",
        "2:1",
        "did you mean `web`?",
    ),
    (
        "a port without a name",
        "socket a inet\na bind 0.0.0.0:http",
        "2:8",
        "name it first: `port http`",
    ),
    (
        "a misspelt option",
        "socket a inet with reuseprot",
        "1:20",
        "did you mean `reuseport`?",
    ),
    (
        "a misspelt C name",
        "socket a inet\na set SO_REUSEPROT on",
        "2:7",
        "did you mean `SO_REUSEPORT`?",
    ),
    (
        "a misspelt errno",
        "socket a inet\na listen -> EADRINUSE",
        "2:13",
        "did you mean `EADDRINUSE`?",
    ),
    (
        "a misspelt rule",
        "socket a inet\na listen -> ok by port-hold",
        "2:19",
        "did you mean `port-held`?",
    ),
    (
        "a misspelt sysctl",
        "sysctl net.core.somaxcon = 1",
        "1:8",
        "did you mean `net.core.somaxconn`?",
    ),
    (
        "a misspelt sysctl by its last part",
        "sysctl somaxcon = 1",
        "1:8",
        "did you mean `somaxconn`?",
    ),
    (
        "a sysctl that both families have",
        "sysctl ip_nonlocal_bind = 1",
        "1:8",
        "`net.ipv4.ip_nonlocal_bind` or `net.ipv6.ip_nonlocal_bind`",
    ),
    (
        "a user id beyond all",
        "user a 99999999999",
        "1:8",
        "a user id is at most 4294967294",
    ),
    ("no user id", "user a", "1:7", "a user id is missing"),
    (
        "an owner beyond all",
        "socket a inet\na fchown 4294967296",
        "2:10",
        "a user id is at most 4294967295",
    ),
    (
        "releases the wrong way round",
        "kernel 6.18 to 5.4",
        "1:16",
        "Linux 5.4 is before 6.18",
    ),
    (
        "a socket and nothing else",
        "socket a inet\na",
        "2:1",
        "what is done with it?",
    ),
    (
        "an arrow without blanks",
        "port web\nsocket a inet\na bind 127.0.0.1:web->EOK",
        "3:23",
        "EOK",
    ),
    (
        "a mark of the byte order",
        "\u{feff}socket a inet\nb close",
        "2:1",
        "no socket is called `b`",
    ),
    (
        "keys that the terminal did not take",
        "socket a inet\na \x1b[Aclose",
        "2:3",
        "unknown call ` [Aclose`",
    ),
    (
        "a sysctl whose set-up is refused",
        "sysctl somaxconn = -1",
        "1:20",
        "does not take `-1`",
    ),
    (
        "a port beyond all",
        "socket a inet\na bind 127.0.0.1:70000",
        "2:8",
        "a port's number is at most 65535",
    ),
    (
        "a value that a sysctl does not take",
        "sysctl net.ipv6.bindv6only = 256",
        "1:30",
        "does not take `256`",
    ),
    (
        "an address that is none",
        "socket a inet\na bind 127.0.0.300:1",
        "2:8",
        "`127.0.0.300` is no address",
    ),
    (
        "brackets forgotten",
        "socket a inet6\na bind ::1:80",
        "2:8",
        "stand in brackets",
    ),
    (
        "an unknown user",
        "user alice 1000\nsocket a inet by alcie",
        "2:18",
        "did you mean `alice`?",
    ),
    (
        "an unknown capability",
        "user a 1 with net_bind",
        "1:15",
        "net_bind_service, net_admin or net_raw",
    ),
    (
        "a label twice",
        "socket a inet\nsocket a inet",
        "2:8",
        "socket `a` is open",
    ),
    (
        "an accepted label twice",
        "socket a inet\na accept b\na accept b -> any",
        "3:10",
        "socket `b` is open",
    ),
    (
        "no label behind reaches",
        "socket a inet\na connect 127.0.0.1:1 -> ok reaches",
        "2:36",
        "a socket's label is missing",
    ),
    (
        "a linger that does not fit",
        "socket a inet\na set linger -1",
        "2:14",
        "`linger` takes seconds from 0 to 65535, or `off`",
    ),
    (
        "a label that is a word",
        "socket nobody inet",
        "1:8",
        "is a word of the language",
    ),
    ("the family missing", "socket a", "1:9", "`inet` or `inet6`"),
    (
        "host set-up too late",
        "socket a inet\nuser b 1",
        "2:1",
        "before the first socket",
    ),
    (
        "more than a line",
        "socket a inet\na close now",
        "2:9",
        "unexpected `now`",
    ),
    (
        "an expectation of nothing",
        "socket a inet\na close ->",
        "2:11",
        "`` is no answer",
    ),
    (
        "a number that is too large",
        "socket a inet\na listen 99999999999",
        "2:10",
        "does not fit a C int",
    ),
    ("a kernel before all", "kernel 2.6", "1:8", "from 3.9 on"),
    (
        "a user who is no process",
        "user alice 1000\nsocket a inet by alice\nalice exits",
        "3:1",
        "process NAME by USER",
    ),
    (
        "a process that does something unknown",
        "process p\np exit",
        "2:3",
        "`forks CHILD`, `exits` or `enters NAMESPACE`",
    ),
    (
        "a process that has ended",
        "process p\nsocket a inet\np exits\na close as p",
        "4:12",
        "process `p` has ended",
    ),
    (
        "a child with a name that is taken",
        "process p\nprocess q\nsocket a inet\np forks q",
        "4:9",
        "`q` exists already",
    ),
    (
        "an unknown namespace",
        "namespace blue\nprocess p inside bleu",
        "2:18",
        "did you mean `blue`?",
    ),
    (
        "a confined process that would move",
        "user-namespace box\nprocess p under box\nsocket a inet\np enters host",
        "4:1",
        "stays in its network",
    ),
    (
        "an interface in two namespaces",
        "namespace blue\ninterface eth0\ninterface eth0 inside blue",
        "3:11",
        "is in another namespace",
    ),
    (
        "a run of labels with a hole",
        "socket s1 inet\ns1 connect 127.0.0.1:1 -> ok reaches one of s1..s2",
        "2:45",
        "s1..s8",
    ),
];

#[test]
fn each_mistake_is_told_where_it_is() {
    for (what, text, place, said) in MISTAKES {
        let problems = parse(text, Settings::default()).expect_err(what);
        let problem = problems[0].to_string();
        assert!(
            problem.starts_with(&format!("{place}: ")),
            "{what}: {problem}"
        );
        assert!(problem.contains(said), "{what}: {problem}");
        assert_eq!(problems.len(), 1, "{what}: {problems:?}");
    }
}

#[test]
fn every_mistake_of_a_script_is_told_at_once_and_one_in_a_repeat_once() {
    let text = "socket a inet\na bnid 0.0.0.0:1\nrepeat 5\na lisen\nend\n";
    let problems = parse(text, Settings::default()).expect_err("two mistakes");
    let lines: Vec<usize> = problems.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 4]);
}

/// The complaints of each line that has any.
fn complaints(text: &str) -> Vec<(usize, Complaint)> {
    let script = parse(text, Settings::default()).expect("a good script");
    let Ok(mut run) = Run::prepare(&script, Mode::Model) else {
        panic!("the model needs nothing")
    };
    let rows = script
        .steps
        .iter()
        .map(|step| (step.line, run.step(step).complaints));
    rows.flat_map(|(line, all)| all.into_iter().map(move |complaint| (line, complaint)))
        .collect()
}

#[test]
fn an_expectation_that_does_not_hold_is_found() {
    let two = "port web\nsocket a inet\nsocket b inet\na bind 0.0.0.0:web\n";
    let table: &[(&str, &[Complaint])] = &[
        ("b bind 0.0.0.0:web -> EADDRINUSE", &[]),
        ("b bind 0.0.0.0:web -> one of ok, EADDRINUSE", &[]),
        ("b bind 0.0.0.0:web -> any", &[]),
        ("b bind 0.0.0.0:web -> ok", &[Complaint::Answer("model")]),
        (
            "b bind 0.0.0.0:web -> EACCES",
            &[Complaint::Answer("model")],
        ),
        ("b bind 0.0.0.0:web", &[Complaint::Answer("model")]),
        (
            "b getsockname -> 0.0.0.0:web",
            &[Complaint::Answer("model")],
        ),
        ("a getsockname -> 0.0.0.0:web", &[]),
        (
            "a getsockname -> 127.0.0.1:web",
            &[Complaint::Answer("model")],
        ),
        (
            "a getsockname -> 0.0.0.0:1..20000",
            &[Complaint::Answer("model")],
        ),
        (
            "b getsockname -> 0.0.0.0:any",
            &[Complaint::Answer("model")],
        ),
        ("a get state -> LISTEN", &[Complaint::Answer("model")]),
        ("a listen -> ok reaches nobody", &[]),
        (
            "b connect 127.0.0.1:web -> ECONNREFUSED reaches a",
            &[Complaint::Reach("model")],
        ),
        (
            "b bind 0.0.0.0:web -> EADDRINUSE by refused",
            &[Complaint::NotBy(portcullis_kernel_model::Rule::Refused)],
        ),
        (
            "b bind 0.0.0.0:web -> EADDRINUSE because of b",
            &[Complaint::NotBecause(1)],
        ),
    ];
    for (line, wanted) in table {
        let found = complaints(&format!("{two}{line}\n"));
        let wanted: Vec<(usize, Complaint)> = wanted.iter().map(|one| (5, one.clone())).collect();
        assert_eq!(found, wanted, "{line}");
    }
}

#[test]
fn a_step_shows_its_answer_its_rule_and_the_socket() {
    let text = "port web\nsocket a inet\nsocket b inet\na bind 0.0.0.0:web\nb bind 0.0.0.0:web -> EADDRINUSE\n";
    let script = parse(text, Settings::default()).expect("a good script");
    let Ok(mut run) = Run::prepare(&script, Mode::Model) else {
        panic!("the model needs nothing")
    };
    let detail = Detail {
        explain: true,
        colour: false,
    };
    let mut shown = String::new();
    for step in &script.steps {
        let done = run.step(step);
        shown = row(&script, step, &done, &run.ports.0, detail);
    }
    for part in [
        "b bind 0.0.0.0:web",
        "EADDRINUSE",
        "rule port-held:",
        "socket: a",
        "kernel: net/ipv4/",
    ] {
        assert!(shown.contains(part), "{part} is missing:\n{shown}");
    }
    let table = table(&script, &mut run);
    for part in [
        "a        CLOSE",
        "0.0.0.0:20001",
        "port 20001 (web): fastreuse 0, fastreuseport 0",
        "    0.0.0.0: a",
    ] {
        assert!(table.contains(part), "{part} is missing:\n{table}");
    }
}

#[test]
fn a_sysctl_with_an_expectation_is_a_step_before_the_first_socket_too() {
    let text = "sysctl somaxconn = -1 -> EINVAL by sysctl-value\nsysctl somaxconn = 1 -> ok\n";
    assert_eq!(complaints(text), []);
    let script = parse(text, Settings::default()).unwrap();
    // The host is as it was: both writes are steps.
    assert_eq!((script.steps.len(), script.set.len()), (2, 0));
    assert_eq!(complaints("sysctl somaxconn = 1 -> EINVAL").len(), 1);
}

#[test]
fn the_last_socket_of_a_label_is_meant() {
    let text = "socket a inet\na close\nsocket a inet\na bind 127.0.0.1:7 -> ok\nsocket b inet\n\
                b bind 127.0.0.1:7 -> EADDRINUSE because of a\n";
    assert_eq!(complaints(text), []);
}

#[test]
fn a_prompt_reads_line_by_line() {
    let mut reader = Reader::new(Settings::default());
    assert!(matches!(reader.read(1, "port web  # a name"), Ok(None)));
    assert!(matches!(reader.read(2, "socket a inet"), Ok(Some(_))));
    assert!(matches!(reader.read(3, ""), Ok(None)));
    assert!(matches!(reader.read(4, "a bind 0.0.0.0:web"), Ok(Some(_))));
    assert!(reader.read(5, "a bnd 0.0.0.0:web").is_err());
    assert!(reader.read(6, "repeat 4").is_err());
}

#[test]
fn the_page_of_the_language_names_every_word() {
    let page = include_str!("../../../../docs/scenarios.md");
    for entry in SETTABLE {
        let line = format!(
            "| `{}` | `{}` | {} |",
            entry.word,
            entry.c_name,
            entry.value.text()
        );
        assert!(page.contains(&line), "docs/scenarios.md lacks: {line}");
    }
    for (word, c_name, _) in READABLE {
        let line = format!("| `{word}` | `{c_name}` |");
        assert!(page.contains(&line), "docs/scenarios.md lacks: {line}");
    }
    for sysctl in Sysctl::ALL {
        assert!(
            page.contains(&format!("`{}`", sysctl.name)),
            "docs/scenarios.md lacks {}",
            sysctl.name
        );
    }
    let all = parse::CALLS.iter().chain(parse::ITEMS);
    for word in all.chain(processes::STEPS) {
        assert!(
            page.contains(&format!("\"{word}\"")),
            "the grammar lacks {word}"
        );
    }
}

#[test]
fn the_examples_of_the_page_hold() {
    let page = include_str!("../../../../docs/scenarios.md");
    let blocks: Vec<&str> = page
        .split("```bind\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 3, "the page has examples");
    for block in blocks {
        assert_eq!(complaints(block), [], "{block}");
        assert_eq!(format(block), block);
    }
}

#[test]
fn a_label_is_given_again_where_the_accept_before_may_have_failed() {
    let text = "port web\nsocket l inet\nl nonblocking on\nl bind 127.0.0.1:web\nl listen\n\
                l accept x -> any\nl accept x -> EAGAIN\nsocket c inet\n\
                c connect 127.0.0.1:web\nl accept x -> one of ok, EAGAIN\n\
                x getpeername -> 127.0.0.1:any\nl accept x -> any\n";
    let script = parse(text, Settings::default()).unwrap();
    let mut run = Run::prepare(&script, Mode::Model).unwrap();
    for step in &script.steps {
        let row = run.step(step);
        assert!(
            row.complaints.is_empty(),
            "{}: {:?}",
            step.said,
            row.complaints
        );
    }
}
