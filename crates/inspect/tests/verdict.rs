//! Verdicts about a live network: who is named, what helps, and what is said to be unknown.
//!
//! Decides:  what a verdict must tell where the situation is known.
//! Not here: that verdicts agree with the kernel over many situations (agreement.rs).

#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener};

use portcullis_inspect::snapshot::{Known, Snapshot};
use portcullis_inspect::verdict::{Opening, Outcome, Verdict, ask, ask_socket};
use portcullis_inspect::{Means, Wanted, read};
use portcullis_kernel_model::{Call, Opt};
use portcullis_testkit::private_network;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn host(means: Means) -> Snapshot {
    let wanted = Wanted {
        means,
        ..Wanted::default()
    };
    read(&wanted).unwrap()
}

fn asked(snapshot: &Snapshot, text: &str) -> Verdict {
    ask(snapshot, &Opening::new(at(text))).unwrap()
}

#[test]
fn a_holder_is_named_with_its_process_and_the_ways_out_were_tried() {
    private_network(|| {
        let holder = TcpListener::bind("127.0.0.1:8080").unwrap();
        let verdict = asked(&host(Means::Everything), "0.0.0.0:8080");
        assert_eq!(verdict.outcome, Outcome::Refused, "{verdict}");
        let answer = &verdict.answers[0];
        assert_eq!(answer.error, Some("EADDRINUSE"));
        assert_eq!(answer.call.as_deref(), Some("bind"));
        // std sets SO_REUSEADDR.
        assert_eq!(answer.holders[0].address, holder.local_addr().unwrap());
        assert_eq!(answer.holders[0].processes[0].pid, std::process::id());
        assert!(verdict.ways.iter().all(|way| way.tried), "{verdict}");
        let kinds: Vec<&str> = verdict
            .ways
            .iter()
            .flat_map(|way| way.kinds.clone())
            .collect();
        assert!(
            kinds.contains(&"port") && kinds.contains(&"stop"),
            "{verdict}"
        );
        // With SO_REUSEADDR the refusal is another rule's.
        let mut opening = Opening::new(at("0.0.0.0:8080"));
        opening.options.push(Opt::ReuseAddr(true));
        let verdict = ask(&host(Means::Everything), &opening).unwrap();
        let rule = verdict.answers[0].rule.as_ref().unwrap();
        assert_eq!(rule.id, "reuseaddr-beside-listener", "{verdict}");
        // Another address is free, and who has the port elsewhere is told.
        let verdict = asked(&host(Means::Everything), "127.0.0.2:8080");
        assert_eq!(verdict.outcome, Outcome::Works, "{verdict}");
        assert_eq!(verdict.beside.len(), 1, "{verdict}");
    });
}

#[test]
fn everybody_in_the_way_is_named_and_stopping_one_is_no_way_out() {
    private_network(|| {
        let _held: Vec<TcpListener> = ["127.0.0.1:81", "127.0.0.2:81", "127.0.0.3:81"]
            .map(|text| TcpListener::bind(text).unwrap())
            .into();
        let verdict = asked(&host(Means::Everything), "0.0.0.0:81");
        assert_eq!(verdict.answers[0].holders.len(), 3, "{verdict}");
        assert_eq!(verdict.answers[0].more_holders, 0);
    });
}

#[test]
fn what_cannot_be_seen_is_said_and_both_answers_are_given() {
    private_network(|| {
        let _holder = TcpListener::bind("127.0.0.1:82").unwrap();
        let mut opening = Opening::new(at("127.0.0.1:82"));
        opening.options.push(Opt::ReusePort(true));
        let verdict = ask(&host(Means::SockDiag), &opening).unwrap();
        assert_eq!(verdict.outcome, Outcome::Unknown, "{verdict}");
        let errors: Vec<_> = verdict.answers.iter().map(|answer| answer.error).collect();
        assert_eq!(errors, [Some("EADDRINUSE"), None], "{verdict}");
        let text = verdict.to_string();
        assert!(text.starts_with("unknown: whether 127.0.0.1:82 "), "{text}");
        // Without the option nothing depends on what is unknown.
        let verdict = asked(&host(Means::SockDiag), "127.0.0.1:82");
        assert_eq!(verdict.outcome, Outcome::Refused, "{verdict}");
        // What a kernel does not list may hold a port that looks free.
        let mut old = host(Means::SockDiag);
        old.sources.bound = Known::No("an old kernel".to_owned());
        assert_eq!(asked(&old, "127.0.0.1:83").outcome, Outcome::Unknown);
    });
}

#[test]
fn a_socket_that_is_there_is_asked_about_by_its_cookie() {
    private_network(|| {
        let holder = TcpListener::bind("127.0.0.1:84").unwrap();
        let cookie = portcullis_sys::trace::socket_cookie(&holder).unwrap();
        let snapshot = host(Means::Everything);
        let again = Call::Listen(7);
        let verdict = ask_socket(&snapshot, cookie, &[again]).unwrap().unwrap();
        assert_eq!(verdict.outcome, Outcome::Works, "{verdict}");
        assert_eq!(verdict.beside, [], "{verdict}");
        let twice = Call::Bind(Opening::new(at("127.0.0.1:85")).address());
        let verdict = ask_socket(&snapshot, cookie, &[twice]).unwrap().unwrap();
        assert_eq!(verdict.answers[0].error, Some("EINVAL"), "{verdict}");
        assert!(
            ask_socket(&snapshot, cookie + 1, &[again])
                .unwrap()
                .is_none()
        );
    });
}
