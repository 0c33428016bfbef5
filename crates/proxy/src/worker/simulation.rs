//! Whole lives of many sessions on a simulated network, by seed.
//!
//! Decides:  what must always hold: bytes arrive in order and unchanged, a clean end loses none,
//!           nobody is forgotten, every place, slot, socket, buffer and pipe is given back. Workers
//!           sleep as their threads do: what does not wake them is not seen.
//! Not here: the network and its faults (net/simulated.rs), what a configuration says (setting.rs),
//!           what holds after every wake-up (invariants.rs, idle.rs). What a run covers, and what is
//!           on record: docs/simulation.md.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_balance::{Group, MemberId, WarmUp};

use super::gather::GATHER_MS;
use super::{Engine, Opening, Reports};
use crate::health::{Change, CheckStatus, Errors, Health, HealthSettings};
use crate::limits::Bell;
use crate::net::Close;
use crate::net::simulated::{Connection, Dice, Faults, Lie, SimulatedNet, Stage, World};
use crate::record::{self, EndCause, LogSource, PeerAddress, RecordKind, SessionRecord};
use crate::session::Times;
use crate::snapshot::*;
use crate::state::{BackendState, FrontendState, ListenerState, ProcessState, ServerState};

mod canaries;
mod gathering;
mod idle;
mod invariants;
mod setting;

use setting::{ERROR_LIMIT, Setting, Told};

const MAXCONN: u32 = 7;
const CHECKS: HealthSettings = HealthSettings {
    inter_ms: 100,
    fast_inter_ms: None,
    down_inter_ms: None,
    rise: 2,
    fall: 2,
};

/// One experiment.
#[derive(Clone, Copy)]
struct Trial {
    seed: u64,
    faults: Faults,
    /// Do idle times run (and the clock with them)?
    timeouts: bool,
    /// Have servers a `maxconn`, so that clients wait in a queue?
    limits: bool,
    /// Do checks take servers down and bring them up, and their sessions with them?
    checks: bool,
    /// Does the configuration say all that it may say (setting.rs)?
    wide: bool,
    /// Workers that share the listener, their counts and their servers.
    workers: usize,
    clients: u32,
}

impl Trial {
    /// One worker, and none of what a trial may have beside faults.
    fn plain(seed: u64, faults: Faults, clients: u32) -> Trial {
        Trial {
            seed,
            faults,
            timeouts: false,
            limits: false,
            checks: false,
            wide: false,
            workers: 1,
            clients,
        }
    }
}

fn snapshot(
    trial: Trial,
    dice: &mut Dice,
    setting: &Setting,
    told: &[Arc<Told>; 3],
) -> Arc<Snapshot> {
    let idle = |ms: u32| if trial.timeouts { ms } else { 0 };
    let servers = (0..3).map(|at| {
        Some(Arc::new(Server {
            name: format!("s{at}").into(),
            slot: MemberId(at),
            address: ServerAddress::Unix(Vec::new()),
            user_timeout_ms: 0,
            congestion_control: None,
            outgoing: Default::default(),
            observe: setting.observe.then(|| Observe {
                limit: ERROR_LIMIT,
                tell: Arc::<Told>::clone(&told[at as usize]),
            }),
            state: Arc::default(),
        }))
    });
    let group = Group::new(setting.algorithm, setting.all_backups, &setting.members);
    group.set_fullconn(setting.fullconn);
    let backend = Backend {
        name: "be".into(),
        group: Arc::new(group),
        servers: ServerTable::of(servers),
        hash: setting.hash,
        queue_timeout_ms: idle(dice.below(2) as u32 * 700),
        connect_timeout_ms: 300,
        server_timeout_ms: idle(2_000),
        server_fin_timeout_ms: idle(500),
        tunnel_timeout_ms: idle(dice.below(2) as u32 * 5_000),
        retries: dice.below(4) as u32,
        redispatch: dice.below(4) as i32 - 2,
        keepalive: None,
        no_linger: false,
        independent: dice.once_in(3),
        splice: true,
        abort_on_close: dice.once_in(3),
        smart_connect: false,
        state: Arc::new(BackendState::default()),
    };
    let frontend = Frontend {
        name: "fe".into(),
        backend: Some(Arc::new(backend)),
        maxconn: MAXCONN,
        session_rate: setting.session_rate,
        lifetime_ms: idle(dice.below(3) as u32 * 3_000),
        drain_age_ms: idle(dice.below(3) as u32 * 1_000),
        greeting_timeout_ms: setting.greeting_ms,
        client_timeout_ms: idle(1_500),
        client_fin_timeout_ms: idle(400),
        log: Some(FrontendLog {
            moment: LogMoment::End,
            skip_null: false,
            skip_normal: false,
        }),
        keepalive: None,
        no_linger: false,
        independent: dice.once_in(3),
        splice: !dice.once_in(3),
        state: Arc::new(FrontendState::default()),
    };
    let process = ProcessState::default();
    process
        .maxconn
        .store(setting.process_maxconn, Ordering::SeqCst);
    process
        .max_rate
        .store(setting.process_rate, Ordering::SeqCst);
    Arc::new(Snapshot {
        generation: 0,
        frontends: vec![Arc::new(frontend)],
        tuning: Tuning {
            max_accept: 1 + dice.below(5) as u32,
            pipe_size: 65_536,
            buffer_size: 4_096,
            max_pipes: dice.below(4) as u32,
            client_receive_buffer: None,
            client_send_buffer: None,
            server_receive_buffer: None,
            server_send_buffer: None,
        },
        process: Arc::new(process),
    })
}

fn opening(address: &Arc<ListenerState>) -> Opening<()> {
    Opening {
        listener: (),
        sharing: Sharing::Shared,
        frontend: 0,
        state: Arc::clone(address),
    }
}

/// A worker, as its thread has it.
struct Worker {
    engine: Engine<SimulatedNet>,
    bell: Arc<Bell>,
    /// Its eventfd was written to.
    rung: Arc<AtomicBool>,
    /// Commands that it has not obeyed yet.
    orders: Vec<Order>,
    /// It does not hear its bell: a defect.
    deaf: bool,
    /// `None`: until something wakes it.
    sleeps_until: Option<u64>,
}

/// What the control plane tells a worker.
#[derive(Debug, Clone)]
enum Order {
    Pause,
    Resume,
    /// The snapshot again.
    Install,
    Stop,
    End(Arc<ServerState>),
}

struct Run {
    address: Arc<ListenerState>,
    trial: Trial,
    setting: Setting,
    dice: Dice,
    world: Rc<RefCell<World>>,
    workers: Vec<Worker>,
    log: LogSource,
    records: Vec<SessionRecord>,
    snapshot: Arc<Snapshot>,
    now_ms: u64,
    wall_ms: u64,
    limits: [u32; 3],
    health: Vec<Health>,
    checked: Vec<invariants::Reference>,
    /// How often `observe` told, and of how many of that the checks know.
    told: [Arc<Told>; 3],
    known: [u64; 3],
    /// Since when each server warms up, where it does.
    warming: [Option<u64>; 3],
    line: invariants::Line,
    idle: idle::Idle,
    /// Wake-ups, and things that happened.
    steps: u64,
}

impl Run {
    fn new(trial: Trial) -> Run {
        let mut dice = Dice::new(trial.seed ^ 0x5eed);
        let world = World::new(trial.seed, trial.faults);
        let (sink, log) = record::bounded(10_000);
        let limits = match trial.limits {
            true => [0; 3].map(|_| 1 + dice.below(2) as u32),
            false => [0; 3],
        };
        let setting = Setting::of(trial, &mut dice, limits);
        let told = Told::of_three();
        let snapshot = snapshot(trial, &mut dice, &setting, &told);
        let address = Arc::new(ListenerState::default());
        address
            .maxconn
            .store(setting.listener_maxconn, Ordering::SeqCst);
        address
            .accepts_proxy
            .store(setting.proxies, Ordering::SeqCst);
        let worker = |worker: usize| {
            let net = SimulatedNet {
                world: Rc::clone(&world),
                worker,
            };
            let reports = Reports {
                log: Some(sink.clone()),
                observer: None,
            };
            Worker::new(net, reports, &snapshot, &address)
        };
        Run {
            workers: (0..trial.workers).map(worker).collect(),
            address,
            trial,
            setting,
            dice,
            world,
            log,
            records: Vec::new(),
            snapshot,
            now_ms: 1_000,
            wall_ms: 1_000,
            limits,
            health: vec![Health::new(CHECKS); 3],
            checked: vec![invariants::Reference::new(CHECKS.rise, CHECKS.fall); 3],
            told,
            known: [0; 3],
            warming: [None; 3],
            line: invariants::Line::default(),
            idle: idle::Idle::default(),
            steps: 0,
        }
    }

    /// A client connects.
    fn arrive(&mut self) {
        let mut world = self.world.borrow_mut();
        let id = world.arrive();
        if self.setting.proxies {
            let (header, at_once) = setting::greeting(&mut self.dice, id);
            world.announce(id, &header, at_once);
        }
    }

    /// Does a worker's epoll_wait return?
    fn is_awake(&self, at: usize) -> bool {
        let worker = &self.workers[at];
        !worker.orders.is_empty()
            || worker.rung.load(Ordering::SeqCst) && !worker.deaf
            || worker
                .sleeps_until
                .is_some_and(|until| until <= self.now_ms)
            || self.world.borrow().has_events(at)
    }

    /// One of those who are awake takes a turn, if there is one; a plain trial's only worker wakes up
    /// for nothing, too.
    fn wake_up(&mut self) -> Result<(), String> {
        if !self.trial.wide {
            return self.turn(0);
        }
        let awake: Vec<usize> = (0..self.workers.len())
            .filter(|&at| self.is_awake(at))
            .collect();
        match awake.len() as u64 {
            0 => Ok(()),
            some => {
                let at = awake[self.dice.below(some) as usize];
                self.turn(at)
            }
        }
    }

    /// One turn of a worker, as the thread's loop does it.
    fn turn(&mut self, at: usize) -> Result<(), String> {
        // The clock on the wall steps, back and forth; nothing but the logged date may care.
        if self.dice.once_in(30) {
            self.wall_ms = self.dice.below(1 << 41);
        }
        self.world.borrow_mut().now_ms = self.now_ms;
        let worker = &mut self.workers[at];
        let engine = &mut worker.engine;
        worker.rung.store(false, Ordering::SeqCst);
        engine.tick(self.now_ms, self.wall_ms);
        let events = self.world.borrow_mut().events(at);
        for (token, readiness) in events {
            engine.handle(token, readiness);
        }
        let heard = !worker.deaf && worker.bell.heard();
        let orders = std::mem::take(&mut worker.orders);
        if heard || !orders.is_empty() {
            for order in orders {
                match order {
                    Order::Pause => engine.pause(),
                    Order::Resume => engine.resume(),
                    Order::Install => {
                        let opening = opening(&self.address);
                        engine.install(Arc::clone(&self.snapshot), vec![opening]);
                    }
                    Order::Stop => engine.stop_accepting(),
                    Order::End(server) => engine.end_sessions_of(&server, EndCause::Down),
                }
            }
            engine.woken();
        }
        engine.run_ready();
        engine.run_alarms();
        engine.finish_batch();
        if self.trial.wide {
            let patience = engine.patience_ms();
            worker.sleeps_until = patience.map(|ms| self.now_ms + ms);
        }
        let written = self.records.len();
        self.records.extend(self.log.receiver().try_iter());
        self.steps += 1;
        self.check_counts()?;
        let engines: Vec<_> = self.workers.iter().map(|it| &it.engine).collect();
        let backend = self.backend();
        invariants::check(&engines, at, &backend, self.limits)?;
        invariants::check_queues(&backend, &self.setting)?;
        self.line.check(&engines, self.steps)?;
        let rules = self.rules();
        let world = self.world.borrow();
        self.idle
            .check(engines[at], &rules, &self.records[written..], &world)
    }

    fn backend(&self) -> Arc<Backend> {
        let backend = self.snapshot.frontends[0].backend.as_ref();
        Arc::clone(backend.expect("there is one"))
    }

    fn rules(&self) -> idle::Rules {
        let (frontend, backend) = (&self.snapshot.frontends[0], self.backend());
        idle::Rules {
            times: Times::of(frontend, Some(&backend)),
            client_independent: frontend.independent,
            server_independent: backend.independent,
        }
    }

    fn sessions(&self) -> usize {
        let counts = self.workers.iter().map(|it| it.engine.session_count());
        counts.sum()
    }

    /// What all workers count together is what there is, and within its limits.
    fn check_counts(&self) -> Result<(), String> {
        let frontend = &self.snapshot.frontends[0];
        let process = &self.snapshot.process;
        let all = [
            (&frontend.state.connections, MAXCONN),
            (&process.connections, self.setting.process_maxconn),
            (&self.address.connections, self.setting.listener_maxconn),
        ];
        let sessions = self.sessions();
        for (count, limit) in all {
            let counted = count.load(Ordering::SeqCst);
            if (limit > 0 && counted > limit) || counted as usize != sessions {
                return Err(format!("{counted} counted of {limit}, {sessions} sessions"));
            }
        }
        Ok(())
    }

    /// A check of a server comes out.
    fn check_server(&mut self) -> Result<(), String> {
        let at = self.dice.below(3) as usize;
        let status = match self.dice.once_in(2) {
            true => CheckStatus::L4Ok,
            false => CheckStatus::L4Connection,
        };
        let change = self.health[at].observe(status).change;
        let up = self.checked[at].observe(status == CheckStatus::L4Ok);
        self.conclude(at, change, up)
    }

    /// `observe layer4` told of errors since it was last looked: each time counts as a failed check.
    fn hear_errors(&mut self) -> Result<(), String> {
        for at in 0..3 {
            let told = self.told[at].0.load(Ordering::SeqCst);
            if self.known[at] < told && self.trial.checks {
                self.known[at] += 1;
                let outcome = self.health[at].analyzed(Errors::FailedCheck);
                let up = self.checked[at].observe(false);
                self.conclude(at, outcome.and_then(|it| it.change), up)?;
            }
        }
        Ok(())
    }

    /// What a result means for the group and for sessions.
    fn conclude(&mut self, at: usize, change: Option<Change>, up: bool) -> Result<(), String> {
        let backend = self.backend();
        let slot = MemberId(at as u32);
        if let Some(change) = change {
            let slow = self.setting.slow_start_s > 0 && change == Change::Up;
            self.warming[at] = slow.then_some(self.now_ms);
            self.warm(at);
            backend.group.set_usable(slot, change == Change::Up);
        }
        // `on-marked-down shutdown-sessions` of the first server only.
        if let (0, Some(Change::Down), Some(server)) = (at, change, backend.servers.get(slot)) {
            for worker in &mut self.workers {
                worker.orders.push(Order::End(Arc::clone(&server.state)));
            }
        }
        let usable = backend.group.is_usable(slot);
        match (self.health[at].is_up(), usable) == (up, up) {
            true => Ok(()),
            false => Err(format!(
                "checks: server {at} should be up: {up}; usable: {usable}"
            )),
        }
    }

    /// How far a server is in its slowstart.
    fn warm(&mut self, at: usize) {
        let of_s = self.setting.slow_start_s;
        let elapsed = self.warming[at].map(|since| (self.now_ms - since) / 1_000);
        let warm_up = match elapsed.and_then(|seconds| u32::try_from(seconds).ok()) {
            Some(elapsed_s) if elapsed_s < of_s => WarmUp { elapsed_s, of_s },
            _ => {
                self.warming[at] = None;
                WarmUp::DONE
            }
        };
        let group = &self.backend().group;
        group.set_warm_up(MemberId(at as u32), warm_up);
    }

    /// Something happens out there.
    fn happen(&mut self) {
        self.steps += 1;
        let mut world = self.world.borrow_mut();
        let count = world.connections.len() as u64;
        if count == 0 {
            return;
        }
        let id = self.dice.below(count) as usize;
        if world.connections[id].stage == Stage::Connecting {
            world.settle(id);
        }
        if world.connections[id].stage != Stage::Open {
            return;
        }
        // Bulk and much room in some trials: sources that gather are to be among them.
        let (most, room) = match self.trial.seed.is_multiple_of(5) {
            true => (50_000, 60_000),
            false => (25_000, 15_000),
        };
        match self.dice.below(12) {
            0..4 => world.send(id, self.dice.below(1_500) as usize),
            4 => world.send(id, self.dice.below(most) as usize),
            5..9 => world.make_room(id, self.dice.below(room) as usize),
            9 if self.dice.once_in(3) => world.end(id),
            10 if self.dice.once_in(self.trial.faults.reset) => world.reset(id),
            _ => {}
        }
    }

    /// The control plane says something.
    fn command(&mut self) -> Result<(), String> {
        if self.trial.checks && self.dice.once_in(12) {
            self.check_server()?;
        }
        self.hear_errors()?;
        for at in 0..3 {
            if self.warming[at].is_some() && self.dice.once_in(10) {
                self.warm(at);
            }
        }
        let at = match self.trial.wide {
            true => self.dice.below(self.workers.len() as u64) as usize,
            false => 0,
        };
        let worker = &mut self.workers[at];
        match self.dice.below(400) {
            0..3 => worker.orders.push(Order::Pause),
            3..15 => worker.orders.push(Order::Resume),
            15 => worker.orders.push(Order::Install),
            _ => {}
        }
        Ok(())
    }

    /// Each worker gets a command, and obeys.
    fn all_obey(&mut self, order: &Order) -> Result<(), String> {
        (0..self.workers.len()).try_for_each(|at| {
            self.workers[at].orders.push(order.clone());
            self.turn(at)
        })
    }

    fn has_ready(&self) -> bool {
        self.workers.iter().any(|worker| worker.engine.has_ready())
    }

    /// So many wake-ups that each worker may have had some.
    fn all_wake_up(&mut self) -> Result<(), String> {
        let times = if self.trial.wide {
            3 * self.workers.len()
        } else {
            1
        };
        (0..times).try_for_each(|_| self.wake_up())
    }

    /// All have room and nobody sends: what was sent must arrive, without any end that hurries it.
    fn calm_down(&mut self) -> Result<(), String> {
        let until_ms = self.now_ms + 2 * GATHER_MS;
        while self.now_ms < until_ms {
            let mut world = self.world.borrow_mut();
            for id in 0..world.connections.len() {
                let connection = &world.connections[id];
                if connection.stage == Stage::Open && connection.closed.is_none() {
                    world.make_room(id, 100_000);
                }
            }
            drop(world);
            self.all_wake_up()?;
            self.now_ms += u64::from(!self.has_ready());
        }
        let world = self.world.borrow();
        let is_open = |connection: &Connection| {
            connection.stage == Stage::Open
                && connection.closed.is_none()
                && !(connection.ended || connection.peer_ended || connection.peer_reset)
        };
        for (id, connection) in world.connections.iter().enumerate() {
            let partner = connection.partner.map(|at| &world.connections[at]);
            let relayed = is_open(connection) && partner.is_some_and(is_open);
            if relayed && !connection.arriving.is_empty() {
                let left = connection.arriving.len();
                return Err(format!("{left} bytes of connection {id} were left lying"));
            }
        }
        Ok(())
    }

    /// Everybody finishes what he does, and the engine gets all the time it wants.
    fn finish(&mut self) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..20_000 {
            let mut world = self.world.borrow_mut();
            for id in 0..world.connections.len() {
                world.settle(id);
                let connection = &world.connections[id];
                if connection.stage == Stage::Open && connection.closed.is_none() {
                    let (blocked, ended) = (connection.wants_room, connection.peer_ended);
                    if blocked {
                        world.make_room(id, 100_000);
                    }
                    // Whose header is not whole sends the rest of it, or ends in the middle.
                    if self.setting.proxies && self.dice.once_in(2) {
                        world.send(id, 40);
                    }
                    if !ended {
                        world.end(id);
                    }
                }
            }
            let waiting = !world.queue.is_empty();
            drop(world);
            self.all_wake_up()?;
            // The clock runs only as far as waits and attempts need it, unless idle times run.
            self.now_ms += 20;
            let idle = self.sessions() == 0 && !waiting;
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet > 3 {
                return Ok(());
            }
        }
        let left = self.sessions();
        let queue = self.world.borrow().queue.len();
        Err(format!(
            "{left} sessions and {queue} clients were forgotten"
        ))
    }

    fn check(&self) -> Result<(), String> {
        let world = self.world.borrow();
        for (id, connection) in world.connections.iter().enumerate() {
            if connection.closed.is_none() {
                return Err(format!("connection {id} was not closed"));
            }
            let Some(partner) = connection.partner.map(|at| &world.connections[at]) else {
                continue;
            };
            if !partner.sent[partner.header..].starts_with(&connection.received) {
                return Err(format!("connection {id} got what was never sent"));
            }
        }
        let mut logged = BTreeSet::new();
        for record in &self.records {
            check_record(record, &world)?;
            if record.total_ms > self.now_ms - 1_000 {
                return Err(format!("a session of {} ms", record.total_ms));
            }
            if let PeerAddress::Ip(client) = record.client
                && !logged.insert(client.port())
            {
                return Err(format!("client {} was logged twice", client.port()));
            }
        }
        let frontend = &self.snapshot.frontends[0];
        let backend = frontend.backend.as_ref().expect("there is one");
        let process = &self.snapshot.process;
        let counts = [
            self.address.connections.load(Ordering::SeqCst),
            process.connections.load(Ordering::SeqCst),
            frontend.state.connections.load(Ordering::SeqCst),
            backend.state.connections.load(Ordering::SeqCst),
            backend.group.total(),
        ];
        let held: Vec<_> = self.workers.iter().map(|it| it.engine.held()).collect();
        if counts != [0; 5] || held.iter().any(|&held| held != (0, 0)) {
            return Err(format!("left: {counts:?} {held:?}"));
        }
        self.check_rates(&world)?;
        self.check_errors(backend)?;
        let total = frontend.state.total.load(Ordering::SeqCst);
        if total != self.records.len() as u64 {
            return Err(format!("{total} sessions, {} records", self.records.len()));
        }
        let bytes: u64 = self.records.iter().map(|record| record.bytes_in).sum();
        if bytes != frontend.state.bytes_in.load(Ordering::SeqCst) {
            return Err("the bytes of records and counters differ".to_owned());
        }
        Ok(())
    }
}

impl Run {
    /// No second, whenever it began, has more connections than its rate.
    fn check_rates(&self, world: &World) -> Result<(), String> {
        for rate in [self.setting.session_rate, self.setting.process_rate] {
            let most = rate as usize;
            let mut windows = world.accepted.windows(most + 1);
            let full = |all: &&[u64]| all[most] - all[0] < 1_000;
            if let Some(crowd) = windows.find(full).filter(|_| rate > 0) {
                return Err(format!("more than {rate} in a second: {crowd:?}"));
            }
        }
        Ok(())
    }

    /// `observe` tells once for so many errors in a row, so never more often than there were any.
    fn check_errors(&self, backend: &Backend) -> Result<(), String> {
        for (told, server) in self.told.iter().zip(backend.servers.all()) {
            let told = told.0.load(Ordering::SeqCst) * u64::from(ERROR_LIMIT);
            let errors = server.state.connect_errors.load(Ordering::SeqCst);
            let left = server.state.errors_in_a_row.load(Ordering::SeqCst);
            if told > errors || left >= ERROR_LIMIT {
                return Err(format!("{told} errors told of {errors}, {left} in a row"));
            }
        }
        Ok(())
    }
}

impl Worker {
    fn new(
        net: SimulatedNet,
        reports: Reports,
        snapshot: &Arc<Snapshot>,
        address: &Arc<ListenerState>,
    ) -> Worker {
        let rung = Arc::new(AtomicBool::new(false));
        let eventfd = Arc::clone(&rung);
        let bell = Bell::new(move || eventfd.store(true, Ordering::SeqCst));
        let number = net.worker as u32;
        let mut engine = Engine::new(net, number, Arc::clone(&bell), reports, 1_000);
        engine.install(Arc::clone(snapshot), vec![opening(address)]);
        Worker {
            engine,
            bell,
            rung,
            orders: Vec::new(),
            deaf: false,
            sleeps_until: Some(1_000),
        }
    }
}

fn check_record(record: &SessionRecord, world: &World) -> Result<(), String> {
    let PeerAddress::Ip(address) = record.client else {
        return Err("a client without an address".to_owned());
    };
    let id = usize::from(address.port());
    let client = &world.connections[id];
    let letters = record.termination.to_string();
    let Some(server) = client.partner.map(|at| &world.connections[at]) else {
        return match letters.as_str() {
            "--" => Err(format!("client {id} never had a server, and ended well")),
            _ => Ok(()),
        };
    };
    match letters.as_str() {
        "--" if server.received != client.sent[client.header..]
            || client.received != server.sent =>
        {
            Err(format!("client {id}: a clean end lost bytes"))
        }
        // The same letters end a client's reset before there was a connection to pass it on to.
        "CD" if record.connect_ms.is_some() && server.closed != Some(Close::Reset) => {
            Err(format!("client {id}: his reset was not passed on"))
        }
        "SD" if client.closed != Some(Close::Reset) => {
            Err(format!("client {id}: the server's reset was not passed on"))
        }
        "SD" if client.received != server.sent && !client.peer_reset => {
            Err(format!("client {id}: the server's last words were lost"))
        }
        _ => Ok(()),
    }
}

fn run(trial: Trial) -> Result<(Vec<SessionRecord>, u64), String> {
    run_with(trial, |_| false)
}

/// With a defect, made once: true says that it was.
fn run_with(
    trial: Trial,
    mut defect: impl FnMut(&mut Run) -> bool,
) -> Result<(Vec<SessionRecord>, u64), String> {
    // Where something is wrong, giving everything back would fail once more.
    let mut run = std::mem::ManuallyDrop::new(Run::new(trial));
    let mut to_come = trial.clients;
    let mut broken = false;
    for _ in 0..trial.clients * 60 {
        if to_come > 0 && run.dice.once_in(20) {
            to_come -= 1;
            run.arrive();
        }
        for _ in 0..run.dice.below(6) {
            run.happen();
        }
        run.now_ms += match trial.timeouts && run.dice.once_in(40) {
            true => run.dice.below(3_000),
            false => run.dice.below(3),
        };
        run.command()?;
        broken = broken || defect(&mut run);
        run.wake_up()?;
    }
    if !trial.timeouts {
        run.calm_down()?;
    }
    run.all_obey(&Order::Resume)?;
    for at in 0..3 {
        run.backend().group.set_usable(MemberId(at), true);
    }
    // Half of the trials end as a soft stop does.
    if trial.timeouts && run.dice.once_in(2) {
        run.all_obey(&Order::Stop)?;
        let mut world = run.world.borrow_mut();
        for id in std::mem::take(&mut world.queue) {
            world.connections[id].closed = Some(Close::Orderly);
        }
    }
    run.finish()?;
    run.check()?;
    let Run {
        workers,
        world,
        snapshot,
        records,
        steps,
        ..
    } = std::mem::ManuallyDrop::into_inner(run);
    drop(workers);
    if snapshot.process.pipes.load(Ordering::SeqCst) != 0 || !world.borrow().pipes.is_empty() {
        return Err("pipes are left".to_owned());
    }
    Ok((records, steps))
}

fn all_faults() -> Faults {
    Faults {
        interrupted: 15,
        no_descriptor: 12,
        no_pipe: 5,
        refused: 6,
        hanging: 8,
        reset: 150,
        aborted_in_queue: 20,
        urgent: 6,
        lie: Lie::None,
    }
}

/// Added to all seeds, for a longer search: `PORTCULLIS_SEED=100000 cargo test -p portcullis-proxy`.
fn seed_offset() -> u64 {
    let text = std::env::var("PORTCULLIS_SEED").unwrap_or_default();
    text.parse().unwrap_or(0)
}

/// Runs `seeds` trials; returns how many sessions ended with which letters.
fn run_all(
    seeds: std::ops::Range<u64>,
    trial: impl Fn(u64) -> Trial,
) -> std::collections::BTreeMap<String, u32> {
    let mut endings = std::collections::BTreeMap::new();
    for seed in seeds {
        let seed = seed + seed_offset();
        match run(trial(seed)) {
            Ok((records, _)) => {
                for record in records {
                    let letters = match record.kind {
                        RecordKind::Refused(_) => "no header".to_owned(),
                        _ => record.termination.to_string(),
                    };
                    *endings.entry(letters).or_insert(0) += 1;
                }
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    endings
}

#[test]
fn without_faults_every_session_ends_cleanly_and_whole() {
    let faults = Faults {
        interrupted: 10,
        urgent: 6,
        ..Faults::default()
    };
    let endings = run_all(0..60, |seed| Trial::plain(seed, faults, 12));
    let all: u32 = endings.values().sum();
    assert_eq!(all, 60 * 12);
    // A client may leave without a word before a slow server accepted; nothing else may happen.
    let left = endings.get("CC").copied().unwrap_or(0);
    assert!(left * 50 < all, "{endings:?}");
    assert_eq!(endings["--"] + left, all, "{endings:?}");
}

#[test]
fn with_every_fault_nothing_is_lost_twice_or_left_behind() {
    let endings = run_all(1_000..1_160, everything);
    // The faults reached what they are for.
    for letters in [
        "--", "CD", "SD", "SC", "sC", "cD", "CC", "sQ", "CQ", "MD", "D-",
    ] {
        assert!(endings.contains_key(letters), "{letters}: {endings:?}");
    }
}

/// A trial with every fault; limits, checks and times by its seed.
fn everything(seed: u64) -> Trial {
    Trial {
        seed,
        faults: all_faults(),
        timeouts: seed.is_multiple_of(2),
        limits: !seed.is_multiple_of(3),
        checks: seed % 4 < 2,
        wide: false,
        workers: 1,
        clients: 12,
    }
}

/// The same with one to four workers, and all that a configuration may say.
fn wide(seed: u64) -> Trial {
    Trial {
        wide: true,
        workers: 1 + (seed % 4) as usize,
        clients: 20,
        ..everything(seed / 2)
    }
}

#[test]
fn workers_share_counts_queues_and_wake_ups_under_every_algorithm() {
    let endings = run_all(20_000..20_160, |seed| Trial { seed, ..wide(seed) });
    for letters in [
        "--",
        "no header",
        "CD",
        "SD",
        "SC",
        "sC",
        "cD",
        "sD",
        "CC",
        "sQ",
        "SQ",
        "CQ",
        "MD",
        "D-",
    ] {
        assert!(endings.contains_key(letters), "{letters}: {endings:?}");
    }
}

/// `cargo xtask simulate`: plain and wide trials for so long, each from a seed of its own.
#[test]
#[ignore = "takes as long as it is told to"]
fn for_as_long_as_it_is_told_to() {
    let text = std::env::var("PORTCULLIS_SIMULATE_SECONDS").unwrap_or_default();
    let time = std::time::Duration::from_secs(text.parse().unwrap_or(10));
    let begun = std::time::Instant::now();
    let first = seed_offset();
    let (mut seed, mut steps, mut sessions) = (first, 0, 0);
    let mut endings = std::collections::BTreeMap::<String, u64>::new();
    while begun.elapsed() < time {
        let trial = match seed.is_multiple_of(3) {
            true => everything(seed),
            false => Trial { seed, ..wide(seed) },
        };
        let (records, more) = run(trial).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        steps += more;
        sessions += records.len();
        for record in records {
            *endings.entry(record.termination.to_string()).or_default() += 1;
        }
        seed += 1;
    }
    eprintln!(
        "seeds {first} to {}: {steps} steps, {sessions} sessions",
        seed - 1
    );
    eprintln!("ended with {endings:?}");
}

#[test]
fn the_checks_find_a_network_that_lies() {
    let lies = [
        Lie::ForgottenEdge,
        Lie::ChangedByte,
        Lie::LostByte,
        Lie::SilentMark,
    ];
    for lie in lies {
        let found = (0..20).any(|seed| {
            let faults = Faults {
                urgent: 6,
                lie,
                ..Faults::default()
            };
            run(Trial::plain(seed, faults, 12)).is_err()
        });
        assert!(found, "{lie:?} went unnoticed");
    }
}

#[test]
fn the_checks_find_a_server_beyond_its_limit() {
    let found = (0..20).any(|seed| {
        let mut run = Run::new(everything(seed * 12 + 4));
        assert!(run.limits.iter().all(|&limit| limit > 0));
        run.limits = [1; 3];
        (0..300).any(|_| {
            run.arrive();
            run.happen();
            run.wake_up().is_err_and(|error| error.contains(" of 1"))
        })
    });
    assert!(found, "two connections of one went unnoticed");
}
