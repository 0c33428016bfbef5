//! The scenario of a seed and a number, as text.
//!
//! Decides:  in which order its lines come and what each says, so that the text is always a scenario: the
//!           host, who calls, sockets that meet, and calls drawn by weight.
//! Not here: what is drawn from (alphabet.rs); the language (script/).

use std::fmt::Write as _;

use super::alphabet::{
    ACTS, ADDRESS_LENGTHS, Act, CAPABILITIES, CHANGES, CROWDED, FAMILIES, FEW4, FEW6, KINDS, Kind,
    LENGTHS, MANY4, MANY6, NO_NEIGHBOURS, ON_DMY, ON_ETH0, ON_LO, OPTIONS, RANGES, READ, RESERVED,
    SHARING, SYSCTLS, WAITS, Weight,
};
use crate::random::Draws;

/// The scenario of a number.
#[must_use]
pub fn text(seed: u64, number: u64) -> String {
    let mut draws = Draws::of(seed ^ 0x70_726f_6365_7373, number);
    let kind = draws.pick(KINDS);
    let mut pen = Pen {
        draws,
        kind,
        rich: false,
        out: String::new(),
        callers: vec!["root".to_owned()],
        processes: Vec::new(),
        namespaces: Vec::new(),
        sockets: Vec::new(),
        made: 0,
        meeting: None,
    };
    pen.host();
    pen.who();
    let web = ["", "", "", "", "", " = 80", " = 443", " = 1023", " = 40001"];
    let web = pen.draws.pick(&web);
    pen.line(format_args!("port web{web}\nport two"));
    pen.open();
    pen.open();
    if kind == Kind::Crowd {
        pen.crowd();
    }
    let meets = if kind == Kind::Connections { 90 } else { 45 };
    if pen.draws.percent(meets) {
        pen.listener();
    }
    let most = pen.draws.pick(&[2, 3, 4, 5, 6]);
    for _ in 0..pen.draws.pick(&[4, 6, 8, 10, 14, 20]) {
        let act = pen.act();
        if act != Act::Open || pen.sockets.len() < most {
            pen.perform(act);
        }
    }
    // What it holds by then is closed.
    if pen.draws.percent(50) {
        pen.perform(Act::Exit);
    }
    pen.out
}

/// Writes one scenario.
struct Pen {
    draws: Draws,
    kind: Kind,
    /// All addresses, not only those that meet.
    rich: bool,
    out: String,
    callers: Vec<String>,
    processes: Vec<String>,
    namespaces: Vec<&'static str>,
    /// Their labels, and whether they are of IPv6.
    sockets: Vec<(String, bool)>,
    made: u32,
    /// Where the first socket listens, and whether that is an IPv6 address.
    meeting: Option<(&'static str, bool)>,
}

impl Pen {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.out, "{text}");
    }

    fn host(&mut self) {
        if self.kind == Kind::Network || self.draws.percent(15) {
            self.rich = true;
            let eth0 = self.draws.pick(ON_ETH0);
            let down = if self.draws.percent(15) { "down " } else { "" };
            self.line(format_args!("interface eth0 {down}= {eth0}"));
            if self.draws.percent(50) {
                let dmy = self.draws.pick(ON_DMY);
                self.line(format_args!("interface dmy = {dmy}"));
            }
            if self.draws.percent(40) {
                let lo = self.draws.pick(ON_LO);
                self.line(format_args!("interface lo = {lo}"));
            }
        }
        if self.kind == Kind::Crowd {
            for (name, values) in CROWDED {
                let value = self.draws.pick(values);
                self.line(format_args!("sysctl {name} = {value}"));
            }
        }
        let ports = self.kind == Kind::Ports;
        if ports || self.draws.percent(30) {
            let range = self.draws.pick(RANGES);
            self.line(format_args!("sysctl ip_local_port_range = {range}"));
        }
        if ports && self.draws.percent(30) {
            let reserved = self.draws.pick(RESERVED);
            self.line(format_args!("sysctl ip_local_reserved_ports = {reserved}"));
        }
        for (name, values) in SYSCTLS {
            let often = ports && *name == "ip_autobind_reuse";
            let chance = match self.kind {
                Kind::Sysctls => 15,
                _ if often => 30,
                _ => 4,
            };
            if self.draws.percent(chance) {
                let value = self.draws.pick(values);
                self.line(format_args!("sysctl {name} = {value}"));
            }
        }
    }

    fn who(&mut self) {
        let several = matches!(self.kind, Kind::Users | Kind::Processes);
        if several || self.draws.percent(15) {
            for (user, uid) in [("alice", 1000), ("bob", 1001)] {
                let caps = self.draws.pick(CAPABILITIES);
                self.line(format_args!("user {user} {uid}{caps}"));
                self.callers.push(user.to_owned());
            }
        }
        if self.kind == Kind::Processes {
            self.processes();
        }
    }

    fn processes(&mut self) {
        if self.draws.percent(40) {
            self.line(format_args!("namespace blue"));
            self.namespaces.push("blue");
        }
        let boxed = self.draws.percent(30);
        if boxed {
            self.line(format_args!("user-namespace box by alice"));
            if self.draws.percent(50) {
                self.line(format_args!("namespace green under box"));
                self.namespaces.push("green");
            }
        }
        for name in ["p", "q"] {
            let caps = [
                "",
                "",
                "",
                " with none",
                " with net_bind_service",
                " with net_raw",
            ];
            let caps = self.draws.pick(&caps);
            let inside = match self.namespaces.first() {
                Some(first) if self.draws.percent(40) => format!(" inside {first}"),
                _ => String::new(),
            };
            if boxed && self.draws.percent(50) {
                let user = self.draws.pick(&["", " by alice"]);
                let inside = if self.namespaces.contains(&"green") {
                    " inside green"
                } else {
                    inside.as_str()
                };
                self.line(format_args!("process {name}{user} under box{inside}{caps}"));
            } else {
                let user = self.draws.pick(&["", " by alice", " by bob"]);
                self.line(format_args!("process {name}{user}{inside}{caps}"));
            }
            self.processes.push(name.to_owned());
            self.callers.push(name.to_owned());
        }
    }

    /// One of the callers, behind this word; mostly the first.
    fn caller(&mut self, word: &str, others: usize) -> String {
        if self.callers.len() == 1 || !self.draws.percent(others) {
            return String::new();
        }
        let at = self.draws.below(self.callers.len());
        format!(" {word} {}", self.callers[at])
    }

    fn open(&mut self) {
        self.made += 1;
        let (name, v6) = (format!("s{}", self.made), self.draws.percent(45));
        let mut options = Vec::new();
        for _ in 0..self.draws.pick(&[0, 0, 1, 1, 2, 3]) {
            let from = if self.draws.percent(70) {
                SHARING
            } else {
                OPTIONS
            };
            options.push(self.draws.pick(from));
        }
        let with = if options.is_empty() { "" } else { " with " };
        let (family, by) = (if v6 { "inet6" } else { "inet" }, self.caller("by", 60));
        let options = options.join(", ");
        self.line(format_args!(
            "socket {name} {family}{by}{with}{options} -> any"
        ));
        if self.draws.percent(60) {
            self.line(format_args!("{name} nonblocking on -> any"));
        }
        self.sockets.push((name, v6));
    }

    /// Listeners that defer, sometimes several of a group, and more clients than a queue may hold.
    fn crowd(&mut self) {
        let with = self
            .draws
            .pick(&["defer-accept 1", "defer-accept 1", "linger off"]);
        let backlog = self.draws.pick(&["0", "1", "5", "8"]);
        for _ in 0..self.draws.pick(&[1, 1, 2, 3]) {
            let of = self.fresh(false);
            self.line(format_args!(
                "socket {of} inet with reuseport, {with} -> any\n{of} bind 127.0.0.1:web -> any\n\
                 {of} listen {backlog} -> any"
            ));
        }
        for _ in 0..self.draws.pick(&[3, 5, 6, 9]) {
            let of = self.fresh(false);
            self.line(format_args!(
                "socket {of} inet -> any\n{of} nonblocking on -> any\n\
                 {of} connect 127.0.0.1:web -> any"
            ));
        }
    }

    /// A label for one more socket.
    fn fresh(&mut self, v6: bool) -> String {
        self.made += 1;
        let name = format!("s{}", self.made);
        self.sockets.push((name.clone(), v6));
        name
    }

    /// The first socket listens, so that others can meet it.
    fn listener(&mut self) {
        let (of, v6) = self.sockets[0].clone();
        let ip = self.draws.pick(if v6 { FEW6 } else { FEW4 });
        self.meeting = Some((ip, v6));
        let address = if v6 {
            format!("[{ip}]:web")
        } else {
            format!("{ip}:web")
        };
        let backlog = self.draws.pick(&["", " 0", " 1", " 5"]);
        self.line(format_args!(
            "{of} bind {address} -> any\n{of} listen{backlog} -> any"
        ));
    }

    /// Where a socket calls: mostly where somebody listens.
    fn target(&mut self, v6: bool) -> String {
        if let Some((ip, of_v6)) = self.meeting
            && self.draws.percent(65)
        {
            return match (v6, of_v6) {
                (true, true) => format!("[{ip}]:web"),
                (false, false) => format!("{ip}:web"),
                (true, false) => format!("[::ffff:{ip}]:web"),
                (false, true) => "127.0.0.1:web".to_owned(),
            };
        }
        let rich = self.rich && self.draws.percent(30);
        let address = self.address(v6, rich);
        if self.may_be_neighbour(&address) {
            return self.address(v6, false);
        }
        address
    }

    /// Whether somebody else may have the address: peers on other hosts are left out (gaps.toml).
    fn may_be_neighbour(&self, address: &str) -> bool {
        let ip = address
            .trim_start_matches('[')
            .trim_start_matches("::ffff:");
        let end = ip.find(['%', ']']).or_else(|| ip.rfind(':'));
        let ip = &ip[..end.unwrap_or(ip.len())];
        let nobodys = NO_NEIGHBOURS.iter().any(|start| ip.starts_with(start));
        !nobodys && !self.out.contains(&format!(" {ip}/"))
    }

    fn act(&mut self) -> Act {
        let kind = self.kind;
        let weight = |&(_, usual, more): &Weight| {
            let more = more.iter().filter(|more| more.0 == kind);
            usual + more.map(|more| more.1).sum::<usize>()
        };
        let mut at = self.draws.below(ACTS.iter().map(weight).sum());
        for entry in ACTS {
            match at.checked_sub(weight(entry)) {
                Some(left) => at = left,
                None => return entry.0,
            }
        }
        Act::Bind
    }

    fn perform(&mut self, act: Act) {
        if self.of_processes(act) {
            return;
        }
        let at = match self.meeting {
            Some(_) if act == Act::Accept && self.draws.percent(60) => 0,
            _ => self.draws.below(self.sockets.len()),
        };
        let (of, v6) = self.sockets[at].clone();
        let by = self.caller("as", 20);
        let said = match act {
            Act::Open => return self.open(),
            Act::Bind => format!("bind {}", self.address(v6, self.rich)),
            Act::Listen => {
                let all = ["", " 0", " 1", " -1", " 5", " 2147483647", " -2147483648"];
                format!("listen{}", self.draws.pick(&all))
            }
            Act::Connect if self.draws.percent(12) => "connect unspecified".to_owned(),
            Act::Connect => format!("connect {}", self.target(v6)),
            Act::Accept => {
                self.made += 1;
                let child = format!("c{}", self.made);
                self.line(format_args!("{of} nonblocking on -> any"));
                self.sockets.push((child.clone(), v6));
                format!("accept {child}")
            }
            Act::Set => {
                let option = self.draws.pick(OPTIONS);
                match self.draws.percent(10) {
                    true => format!("set {option} length {}", self.draws.pick(LENGTHS)),
                    false => format!("set {option}"),
                }
            }
            Act::Get => format!("get {}", self.draws.pick(READ)),
            Act::Shutdown => {
                let how = self.draws.pick(&["read", "write", "both", "3", "-1"]);
                format!("shutdown {how}")
            }
            Act::Pass => format!("pass{}", self.caller("to", 80)),
            // A user namespace does not map every id (gaps.toml).
            Act::Fchown if self.out.contains("under box") => return,
            Act::Fchown => {
                format!("fchown {}", self.draws.pick(&["root", "1000", "7", "1001"]))
            }
            Act::Nonblocking => format!("nonblocking {}", self.draws.pick(&["on", "off"])),
            Act::Close => "close".to_owned(),
            Act::Dup => "dup".to_owned(),
            Act::Name => "getsockname".to_owned(),
            Act::Peer => "getpeername".to_owned(),
            Act::Sysctl | Act::Wait | Act::Fork | Act::Exit | Act::Enter => return,
        };
        let by = if matches!(act, Act::Fchown | Act::Nonblocking) {
            ""
        } else {
            by.as_str()
        };
        self.line(format_args!("{of} {said}{by} -> any"));
    }

    /// What is not about a socket.
    fn of_processes(&mut self, act: Act) -> bool {
        let some = match self.processes.len() {
            0 => None,
            count => Some(self.draws.below(count)),
        };
        match (act, some) {
            (Act::Sysctl, _) => {
                let change = self.draws.pick(CHANGES);
                self.line(format_args!("sysctl {change} -> any"));
            }
            (Act::Wait, _) => {
                let time = self.draws.pick(WAITS);
                self.line(format_args!("wait {time}"));
            }
            (Act::Fork, Some(at)) => {
                self.made += 1;
                let child = format!("f{}", self.made);
                self.out += &format!("{} forks {child}\n", self.processes[at]);
                self.processes.push(child.clone());
                self.callers.push(child);
            }
            (Act::Exit, Some(at)) => {
                let gone = self.processes.remove(at);
                self.callers.retain(|caller| *caller != gone);
                self.line(format_args!("{gone} exits"));
            }
            // One of a user namespace stays where it is.
            (Act::Enter, Some(at)) if self.namespaces == ["blue"] => {
                let confined = self.out.contains("under box");
                if !confined {
                    let to = self.draws.pick(&["blue", "host"]);
                    self.out += &format!("{} enters {to} -> any\n", self.processes[at]);
                }
            }
            (Act::Fork | Act::Exit | Act::Enter, _) => {}
            _ => return false,
        }
        true
    }

    fn address(&mut self, v6: bool, rich: bool) -> String {
        let chosen = self.kind == Kind::Ports && self.draws.percent(70);
        let port = match chosen {
            true => "0",
            false => self.draws.pick(&["web", "web", "web", "web", "two", "0"]),
        };
        let v6 = v6 == self.draws.percent(93);
        let mut text = match (v6, rich) {
            (true, true) => format!("[{}]:{port}", self.draws.pick(MANY6)),
            (true, false) => format!("[{}]:{port}", self.draws.pick(FEW6)),
            (false, true) => format!("{}:{port}", self.draws.pick(MANY4)),
            (false, false) => format!("{}:{port}", self.draws.pick(FEW4)),
        };
        if self.draws.percent(3) {
            let _ = write!(text, " family {}", self.draws.pick(FAMILIES));
        }
        if self.draws.percent(3) {
            let _ = write!(text, " length {}", self.draws.pick(ADDRESS_LENGTHS));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::{self, Settings};

    #[test]
    fn every_number_is_a_scenario() {
        for number in 0..3000 {
            let text = text(5, number);
            if let Err(problems) = script::parse(&text, Settings::default()) {
                let all: Vec<String> = problems.iter().map(|p| p.render("it", &text)).collect();
                panic!("{number}: {}\n{text}", all.join("\n"));
            }
        }
    }

    #[test]
    fn every_kind_of_line_comes_up() {
        let all: String = (0..3000).map(|number| text(5, number)).collect();
        let crowd = "reuseport, defer-accept 1 -> any\ns4 bind 127.0.0.1:web";
        for words in [
            crowd,
            " forks ",
            " exits",
            " enters blue",
            " pass to ",
            "user-namespace box",
            "namespace green under box",
            "interface eth0 down",
            "interface lo = 10.1.0.1/16",
            "192.0.2.8/24",
            " length 3",
            " fchown ",
            "wait ",
            "sysctl tcp_migrate_req = 1 -> any",
            "sysctl somaxconn = -1 -> any",
            "sysctl ip_local_port_range = 1000 60000 -> any",
        ] {
            assert!(all.contains(words), "no line has `{words}`");
        }
    }
}
