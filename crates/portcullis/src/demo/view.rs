//! The demo's live view: one line for each connection that opens and each that closes.
//!
//! Decides:  what a line says, and the tallies. A line of an ordinary connection fits a terminal of
//!           80 columns.
//! Not here: where the events come from (the workers, through an observer queue).

use std::collections::BTreeMap;
use std::time::Duration;

use portcullis_proxy::record::{PeerAddress, SessionEvent, SessionRecord, Termination};

/// Whether lines are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colours {
    /// With ANSI escapes.
    On,
    /// Plain text.
    Off,
}

/// What was seen so far.
#[derive(Debug)]
pub struct View {
    colours: Colours,
    tallies: BTreeMap<String, Tally>,
}

/// Of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    served: u64,
    open: u64,
}

/// A connection that ended, in the words that a line needs.
struct Closed<'a> {
    client: String,
    server: Option<&'a str>,
    connected: bool,
    bytes_in: u64,
    bytes_out: u64,
    lasted: Duration,
    termination: Termination,
}

impl View {
    /// A view of these servers, none of which has served yet.
    pub fn new(servers: impl IntoIterator<Item = String>, colours: Colours) -> View {
        View {
            colours,
            tallies: servers
                .into_iter()
                .map(|name| (name, Tally::default()))
                .collect(),
        }
    }

    /// The line for an event.
    pub fn line(&mut self, event: &SessionEvent) -> String {
        match event {
            SessionEvent::Opened {
                client,
                frontend,
                server,
                ..
            } => self.opened(&shown(*client), &frontend.name, &server.name),
            SessionEvent::Closed { record, .. } => self.closed(&of_record(record)),
        }
    }

    fn opened(&mut self, client: &str, frontend: &str, server: &str) -> String {
        let tally = self.tallies.entry(server.to_owned()).or_default();
        tally.served += 1;
        tally.open += 1;
        let mark = self.paint("32", "opened");
        let served: Vec<String> = self
            .tallies
            .iter()
            .map(|(name, tally)| format!("{name} {}", tally.served))
            .collect();
        let open: u64 = self.tallies.values().map(|tally| tally.open).sum();
        let served = served.join(", ");
        format!("{mark}  {client} -> {frontend} -> {server}  [{served}; {open} open]\n")
    }

    fn closed(&mut self, closed: &Closed<'_>) -> String {
        // A session that no server took was never counted as open.
        let counted = closed.server.filter(|_| closed.connected);
        if let Some(tally) = counted.and_then(|name| self.tallies.get_mut(name)) {
            tally.open = tally.open.saturating_sub(1);
        }
        let code = closed.termination.to_string();
        let mark = self.paint(if code == "--" { "36" } else { "31" }, "closed");
        format!(
            "{mark}  {} -> {}  {} in, {} out, {}, {code} {}\n",
            closed.client,
            closed.server.unwrap_or("no server"),
            bytes(closed.bytes_in),
            bytes(closed.bytes_out),
            time(closed.lasted),
            meaning(&code),
        )
    }

    /// One line with how many connections each server had.
    pub fn summary(&self) -> String {
        let served: Vec<String> = self
            .tallies
            .iter()
            .map(|(name, tally)| format!("{name} {}", tally.served))
            .collect();
        format!("connections served: {}\n", served.join(", "))
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        match self.colours {
            Colours::On => format!("\x1b[{colour}m{text}\x1b[0m"),
            Colours::Off => text.to_owned(),
        }
    }
}

fn of_record(record: &SessionRecord) -> Closed<'_> {
    Closed {
        client: shown(record.client),
        server: record.server.as_ref().map(|server| &*server.name),
        connected: record.connect_ms.is_some(),
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        lasted: Duration::from_millis(record.total_ms),
        termination: record.termination,
    }
}

fn shown(peer: PeerAddress) -> String {
    match peer {
        PeerAddress::Ip(address) => address.to_string(),
        PeerAddress::Unix => "a Unix socket".to_owned(),
    }
}

/// What the two letters of a termination state say, for those who meet them first here.
fn meaning(code: &str) -> &'static str {
    match code {
        "--" => "(normal end)",
        "CD" => "(the client went away)",
        "SD" => "(the server went away)",
        "CC" => "(the client left before the server answered)",
        "SC" => "(the server refused)",
        "sC" => "(the server did not answer in time)",
        "cD" => "(the client was silent too long)",
        "sD" => "(the server was silent too long)",
        _ if code.starts_with('K') => "(ended here)",
        _ => "",
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{} KiB", n >> 10),
        _ => format!("{} MiB", n >> 20),
    }
}

fn time(lasted: Duration) -> String {
    match lasted.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        ms => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_proxy::record::{EndCause, EndPhase};

    fn view() -> View {
        View::new(["ash".to_owned(), "elm".to_owned()], Colours::Off)
    }

    #[test]
    fn a_connection_is_shown_when_it_opens_and_when_it_closes_with_the_tallies() {
        let mut view = view();
        assert_eq!(
            view.opened("127.0.0.1:5", "door", "elm"),
            "opened  127.0.0.1:5 -> door -> elm  [ash 0, elm 1; 1 open]\n"
        );
        let closed = Closed {
            client: "127.0.0.1:5".to_owned(),
            server: Some("elm"),
            connected: true,
            bytes_in: 6,
            bytes_out: 20_480,
            lasted: Duration::from_millis(1234),
            termination: Termination::NORMAL,
        };
        assert_eq!(
            view.closed(&closed),
            "closed  127.0.0.1:5 -> elm  6 B in, 20 KiB out, 1.2 s, -- (normal end)\n"
        );
        assert_eq!(view.summary(), "connections served: ash 0, elm 1\n");
        let line = view.opened("127.0.0.1:6", "door", "ash");
        assert!(line.ends_with("  [ash 1, elm 1; 1 open]\n"), "{line}");
    }

    #[test]
    fn the_lines_of_an_ordinary_connection_fit_eighty_columns() {
        let mut view = View::new(["ash", "elm", "oak"].map(str::to_owned), Colours::Off);
        let client = "127.0.0.1:65535";
        for _ in 0..999 {
            for server in ["ash", "elm", "oak"] {
                let line = view.opened(client, "door", server);
                assert!(line.trim_end().len() <= 80, "{line}");
            }
        }
        let line = view.closed(&Closed {
            client: client.to_owned(),
            server: Some("elm"),
            connected: true,
            bytes_in: 9_999,
            bytes_out: 9_999,
            lasted: Duration::from_millis(999),
            termination: Termination::NORMAL,
        });
        assert!(line.trim_end().len() <= 80, "{line}");
    }

    #[test]
    fn a_connection_that_no_server_took_counts_for_none() {
        let mut view = view();
        let line = view.closed(&Closed {
            client: "127.0.0.1:5".to_owned(),
            server: None,
            connected: false,
            bytes_in: 0,
            bytes_out: 0,
            lasted: Duration::from_millis(7),
            termination: Termination {
                cause: EndCause::ServerAbort,
                phase: EndPhase::Connect,
            },
        });
        assert!(
            line.contains("no server  0 B in, 0 B out, 7 ms, SC"),
            "{line}"
        );
        assert_eq!(view.summary(), "connections served: ash 0, elm 0\n");
    }

    #[test]
    fn colours_are_escapes_around_the_first_word_only() {
        let mut view = View::new([], Colours::On);
        let line = view.opened("c", "f", "s");
        assert_eq!(line, "\x1b[32mopened\x1b[0m  c -> f -> s  [s 1; 1 open]\n");
    }
}
