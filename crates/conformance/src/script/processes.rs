//! The lines about processes and namespaces.
//!
//! Decides:  their grammar; that a name stands for one of them; which process can go where.
//! Kernel:   namespaces(7), credentials(7)
//! Not here: calls on sockets (parse.rs), interfaces and sysctls (setup.rs).

use portcullis_kernel_model::{
    Caps, Namespace, NetId, Process, ProcessId, UserNamespace, UserNsId,
};

use super::cursor::Cursor;
use super::parse::{Caller, Reader};
use super::problem::{Problem, did_you_mean};
use super::program::Action;
use super::words::Line;

/// What a process can do of its own.
pub(super) const STEPS: &[&str] = &["forks", "exits", "enters"];

impl Reader {
    /// `namespace NAME [under USER-NAMESPACE]`.
    pub(super) fn namespace(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        self.before_sockets(at)?;
        let here = at.at;
        let name = at.name("a namespace's name")?;
        if self.script.namespaces.contains(&name) {
            return Err(taken(at, here, &name));
        }
        let user_ns = self.under(at)?;
        self.script.namespaces.push(name);
        let namespace = Namespace::with_loopback(self.script.host.kernel, user_ns);
        self.script.host.namespaces.push(namespace);
        Ok(())
    }

    /// `user-namespace NAME [by USER]`.
    pub(super) fn user_namespace(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        self.before_sockets(at)?;
        let here = at.at;
        let name = at.name("a namespace's name")?;
        if self.script.user_namespaces.contains(&name) {
            return Err(taken(at, here, &name));
        }
        let owner = self.by(at)?;
        let owner = self.script.host.processes[usize::from(owner.0)].uid;
        self.script.user_namespaces.push(name);
        self.script.host.user_namespaces.push(UserNamespace {
            parent: UserNsId(0),
            owner,
        });
        Ok(())
    }

    /// `process NAME [by USER] [under USER-NAMESPACE] [inside NAMESPACE] [with CAPABILITY, … | with none]`.
    pub(super) fn process(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        self.before_sockets(at)?;
        let here = at.at;
        let name = at.name("a process's name")?;
        self.unused_name(at, here, &name)?;
        let user = self.by(at)?;
        let user = self.script.host.processes[usize::from(user.0)];
        let user_ns = self.under(at)?;
        let net = self.inside(at)?;
        let confined = user_ns != UserNsId(0);
        // Whoever enters a user namespace has every capability there.
        let usual = if confined { Caps::ALL } else { user.caps };
        let caps = self.capabilities(at)?.unwrap_or(usual);
        let host = &mut self.script.host;
        let files = host.fresh_files();
        host.processes.push(Process {
            uid: user.uid,
            net,
            user_ns,
            caps,
            files,
        });
        self.script.users.push(name);
        self.callers.push(Caller::Process { confined });
        Ok(())
    }

    /// Whether a line is `PROCESS forks …` or the like.
    pub(super) fn is_of_process(&self, line: &Line) -> bool {
        let step = line.text(1).is_some_and(|word| STEPS.contains(&word));
        step && line
            .text(0)
            .is_some_and(|name| self.script.users.iter().any(|user| user == name))
    }

    /// `PROCESS forks CHILD`, `PROCESS exits`, `PROCESS enters NAMESPACE`.
    pub(super) fn process_step(&mut self, at: &mut Cursor<'_>) -> Result<Action, Problem> {
        at.at = 0;
        let process = self.named_user(at)?;
        let caller = self.callers[usize::from(process.0)];
        match at.next() {
            Some("forks") => {
                let here = at.at;
                let name = at.name("the child's name")?;
                self.unused_name(at, here, &name)?;
                self.script.users.push(name);
                self.callers.push(match caller {
                    Caller::User | Caller::Gone => Caller::Process { confined: false },
                    process => process,
                });
                Ok(Action::Fork { parent: process })
            }
            Some("exits") if caller != Caller::User => {
                self.callers[usize::from(process.0)] = Caller::Gone;
                Ok(Action::Exit { process })
            }
            Some("enters") if caller == (Caller::Process { confined: false }) => {
                let net = self.net(at)?;
                Ok(Action::Enter { process, net })
            }
            Some("enters") if caller != Caller::User => Err(at.line.problem(
                0,
                "a process of a user namespace stays in its network",
                "place it there: process NAME under … inside …",
            )),
            _ => Err(at.line.problem(
                0,
                "a user is no process: all users share one",
                "name one: process NAME by USER",
            )),
        }
    }

    /// `inside NAMESPACE`, else the first.
    pub(super) fn inside(&self, at: &mut Cursor<'_>) -> Result<NetId, Problem> {
        if at.take("inside") {
            return self.net(at);
        }
        Ok(NetId(0))
    }

    fn net(&self, at: &mut Cursor<'_>) -> Result<NetId, Problem> {
        let known = &self.script.namespaces;
        Ok(NetId(one_of(at, known, "namespace")? as u16))
    }

    /// `under USER-NAMESPACE`, else the host's own.
    fn under(&self, at: &mut Cursor<'_>) -> Result<UserNsId, Problem> {
        if at.take("under") {
            let known = &self.script.user_namespaces;
            return Ok(UserNsId(one_of(at, known, "user namespace")? as u16));
        }
        Ok(UserNsId(0))
    }

    /// `by USER`, else root.
    fn by(&self, at: &mut Cursor<'_>) -> Result<ProcessId, Problem> {
        if !at.take("by") {
            return Ok(ProcessId(0));
        }
        let here = at.at;
        let user = self.named_user(at)?;
        if self.callers[usize::from(user.0)] != Caller::User {
            return Err(at
                .line
                .problem(here, "a user is missing", "user alice 1000"));
        }
        Ok(user)
    }

    /// `with CAPABILITY, …` or `with none`; `None` where nothing is said.
    pub(super) fn capabilities(&self, at: &mut Cursor<'_>) -> Result<Option<Caps>, Problem> {
        if !at.take("with") {
            return Ok(None);
        }
        let mut caps = Caps::NONE;
        if at.take("none") {
            return Ok(Some(caps));
        }
        loop {
            let here = at.at;
            match at.next().unwrap_or("") {
                "net_bind_service" => caps.net_bind_service = true,
                "net_admin" => caps.net_admin = true,
                "net_raw" => caps.net_raw = true,
                word => {
                    let known = ["net_bind_service", "net_admin", "net_raw"];
                    let message = format!("no capability `{word}` decides anything here");
                    let mut label = did_you_mean(word, known);
                    if label.is_empty() {
                        label = "net_bind_service, net_admin or net_raw".to_owned();
                    }
                    return Err(at.line.problem(here, message, label));
                }
            }
            if !at.take(",") {
                return Ok(Some(caps));
            }
        }
    }

    /// Users and processes are named alike; the name of a process that has ended is free.
    pub(super) fn unused_name(
        &self,
        at: &Cursor<'_>,
        here: usize,
        name: &str,
    ) -> Result<(), Problem> {
        let known = self.script.users.iter().rposition(|user| user == name);
        match known {
            Some(known) if self.callers[known] != Caller::Gone => Err(taken(at, here, name)),
            _ => Ok(()),
        }
    }
}

fn one_of(at: &mut Cursor<'_>, known: &[String], what: &str) -> Result<usize, Problem> {
    let here = at.at;
    let name = at.next().unwrap_or("");
    known.iter().position(|one| one == name).ok_or_else(|| {
        let near = did_you_mean(name, known.iter().map(String::as_str));
        at.line
            .problem(here, format!("no {what} is called `{name}`"), near)
    })
}

fn taken(at: &Cursor<'_>, here: usize, name: &str) -> Problem {
    let message = format!("`{name}` exists already");
    at.line.problem(here, message, "take another name")
}
