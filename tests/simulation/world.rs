//! Three instances, a database and what befalls them, on a clock that jumps from event to event.
//!
//! Each instance has the daemon's own due_queue and worker_slots; what the pipeline and the dispatcher do around
//! them with a runtime (a round, a call, its answer) is done here by events. Whatever is random comes
//! from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use pgsteward::config::{Builtin, Config, JobName};
use pgsteward::scheduler::due_queue::DueQueue;
use pgsteward::scheduler::planner::RunPolicy;
use pgsteward::scheduler::worker_slots::{WorkerSlot, WorkerSlots};
use pgsteward::store::claims::{ClaimKind, ClaimRequest, ClaimResult, Run, Verdict};
use pgsteward::store::requests::PendingRequests;
use pgsteward::store::runs::RegisteredJob;
use uuid::Uuid;

use super::jobs;
use super::ledger::{Ledger, Time, Weakness};

/// The database's name.
pub const DATABASE: &str = "main";
/// Milliseconds of true time since the begin.
pub type Ms = i64;
pub const SECOND: Ms = 1_000;
pub const MINUTE: Ms = 60 * SECOND;
pub const HOUR: Ms = 60 * MINUTE;
pub const DAY: Ms = 24 * HOUR;

/// As in `schedule/pipeline.rs`, `ledger.rs` and `dispatcher.rs`.
const TRUST_MARGIN: Ms = SECOND;
const CALL_BOUND: Ms = 10 * SECOND;
const REQUEST_POLL_INTERVAL: Ms = 800;
const BACKOFF_MAX: Ms = 15 * SECOND;
const IDLE_LEAST: Ms = 5;
const BATCH_MAX: usize = 64;
/// More rounds than this without any time passing are a loop.
const ROUNDS_AT_ONCE: u32 = 300;
/// By so much the database's clock is ever wrong.
const WRONG_MAX: Ms = 4 * DAY;
const INSTANCES: usize = 3;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub begin: Time,
    pub length: Ms,
    /// Of the observer and of runs.
    pub lease: Ms,
    /// Between two faults, on average.
    pub fault_every: Ms,
    pub weakness: Weakness,
}

enum Event {
    Round(usize),
    Arrives {
        from: usize,
        life: u32,
        call: Call,
        delay: Ms,
        answered: bool,
    },
    Answered {
        to: usize,
        life: u32,
        reply: Option<Reply>,
    },
    RunEnds {
        on: usize,
        life: u32,
        id: Uuid,
    },
    /// The end of a run is written, over a connection of its own.
    Ends {
        on: usize,
        life: u32,
        id: Uuid,
        to: &'static str,
        answered: bool,
    },
    Ended {
        on: usize,
        life: u32,
        id: Uuid,
        to: Option<&'static str>,
    },
    Thaws(usize),
    Starts(usize),
    Reloads(usize),
    DatabaseIsBack,
    Resumes(Option<JobName>),
    Fault,
    Request,
    Check,
}

#[derive(Clone)]
enum Call {
    Upkeep { ended: Vec<(Uuid, i64, &'static str)>, running: Vec<(Uuid, i64)> },
    Register(Vec<(JobName, String)>),
    Hear(Vec<String>),
    Claim { asks: Vec<ClaimRequest>, planned_at: Time },
}

enum Reply {
    Upkeep { clock: Time, held: Result<i64, TimeDelta>, ours: std::collections::BTreeSet<Uuid> },
    Registered(Vec<RegisteredJob>),
    PendingRequests(PendingRequests),
    Claimed { asks: Vec<ClaimRequest>, answers: Vec<ClaimResult>, planned_at: Time },
}

struct Working {
    epoch: i64,
    transactional: bool,
    _lane: WorkerSlot,
}

struct Instance {
    /// Grows with each start; what was meant for a former one is void.
    life: u32,
    alive: bool,
    frozen: Option<Vec<Event>>,
    variant: usize,
    due_queue: DueQueue,
    worker_slots: WorkerSlots,
    /// WorkerSlots of the claim under way.
    taken: Vec<Option<WorkerSlot>>,
    /// Until when it believes that it observes.
    observes: Option<Ms>,
    renew_at: Ms,
    not_before: Ms,
    backoff: Ms,
    heard: Option<Ms>,
    partitions_at_once: bool,
    /// The database's clock less its own; and what its own is off.
    skew: Ms,
    off: Ms,
    calling: bool,
    runs: BTreeMap<Uuid, Working>,
    unwritten: Vec<(Uuid, i64, &'static str)>,
    /// The round that is waited for.
    round_at: Option<Ms>,
}

/// A line of what happened.
#[derive(Debug, Clone)]
struct Note {
    at: Ms,
    who: usize,
    what: &'static str,
    job: Option<JobName>,
    time: Time,
}

pub struct World {
    pub plan: Plan,
    pub now: Ms,
    pub ledger: Ledger,
    pub configs: Vec<Config>,
    pub gates: BTreeMap<JobName, RunPolicy>,
    rng: fastrand::Rng,
    events: BinaryHeap<Reverse<(Ms, u64)>>,
    what: BTreeMap<u64, Event>,
    placed: u64,
    instances: Vec<Instance>,
    /// What the database's clock is off.
    wrong: Ms,
    down: bool,
    slow_until: Ms,
    target: usize,
    /// Until when a fault may still show.
    pub troubled_until: Ms,
    rounds_now: u32,
    notes: VecDeque<Note>,
    pub found: Vec<String>,
    oracle: super::oracle::Oracle,
    pub faults: u64,
}

impl World {
    pub fn new(plan: Plan) -> World {
        let configs: Vec<Config> =
            (0..jobs::VARIANTS).map(|variant| jobs::config(variant, plan.lease / SECOND)).collect();
        let gates = configs[0]
            .jobs
            .all
            .iter()
            .map(|(name, job)| (name.clone(), RunPolicy::of(job, name, DATABASE)))
            .collect();
        let margin = TimeDelta::milliseconds(WRONG_MAX + DAY);
        let end = plan.begin + TimeDelta::milliseconds(plan.length);
        let mut world = World {
            rng: fastrand::Rng::with_seed(plan.seed),
            ledger: Ledger::new(plan.weakness),
            oracle: super::oracle::Oracle::new(&configs, plan.begin - margin, end + margin),
            now: 0,
            configs,
            gates,
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            placed: 0,
            instances: Vec::new(),
            wrong: 0,
            down: false,
            slow_until: 0,
            target: 0,
            troubled_until: 0,
            rounds_now: 0,
            notes: VecDeque::new(),
            found: Vec::new(),
            faults: 0,
            plan,
        };
        for place in 0..INSTANCES {
            let instance = world.instance();
            world.instances.push(instance);
            let at = world.upto(MINUTE);
            world.place(at, Event::Starts(place));
        }
        let (first, request) = (world.between_faults(), world.upto(DAY));
        world.place(first, Event::Fault);
        world.place(request, Event::Request);
        world
    }

    /// Until the end, or until something is wrong.
    pub fn run(&mut self) {
        // The last stretch has no faults, so that everything can come to its end.
        while let Some(Reverse((at, number))) = self.events.pop() {
            if at > self.plan.length || !self.found.is_empty() {
                break;
            }
            if at > self.now {
                self.rounds_now = 0;
            }
            self.now = at;
            self.ledger.clock = self.clock();
            let Some(event) = self.what.remove(&number) else { continue };
            self.happen(event);
            self.found.append(&mut self.ledger.breaches);
        }
        if self.found.is_empty() {
            let clock = self.clock();
            self.found = self.oracle.settled(&self.ledger, clock);
        }
    }

    /// What was found wrong, with what led to it.
    pub fn verdict(&self) -> Result<(), String> {
        if self.found.is_empty() {
            return Ok(());
        }
        let mut told = format!(
            "seed {} from {}, after {} (clock of the database {}):\n",
            self.plan.seed,
            self.plan.begin,
            span(self.now),
            self.clock()
        );
        for found in self.found.iter().take(20) {
            told += &format!("  {found}\n");
        }
        told += "the last events:\n";
        for note in &self.notes {
            let job = note.job.as_ref().map_or("", JobName::as_str);
            told +=
                &format!("  {} #{} {} {job} {}\n", span(note.at), note.who, note.what, note.time);
        }
        Err(told)
    }

    /// The database's clock.
    pub fn clock(&self) -> Time {
        self.plan.begin + TimeDelta::milliseconds(self.now + self.wrong)
    }

    fn upto(&mut self, most: Ms) -> Ms {
        self.now + self.rng.i64(0..=most)
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// From short to long, each order of magnitude as likely as another.
    fn about(&mut self, least: Ms, most: Ms) -> Ms {
        let (least, most) = (least as f64, most as f64);
        (least * (most / least).powf(self.rng.f64())) as Ms
    }

    fn between_faults(&mut self) -> Ms {
        self.now + (self.plan.fault_every as f64 * -(1.0 - self.rng.f64()).ln()) as Ms
    }

    fn place(&mut self, at: Ms, event: Event) {
        self.placed += 1;
        self.events.push(Reverse((at.max(self.now), self.placed)));
        self.what.insert(self.placed, event);
    }

    fn note(&mut self, who: usize, what: &'static str, job: Option<&JobName>, time: Time) {
        if self.notes.len() == 60 {
            self.notes.pop_front();
        }
        self.notes.push_back(Note { at: self.now, who, what, job: job.cloned(), time });
    }

    fn instance(&mut self) -> Instance {
        Instance {
            life: 0,
            alive: false,
            frozen: None,
            variant: self.target,
            due_queue: DueQueue::default(),
            worker_slots: WorkerSlots::new(self.configs[0].jobs.max_concurrent),
            taken: Vec::new(),
            observes: None,
            renew_at: self.now,
            not_before: self.now,
            backoff: 100,
            heard: None,
            partitions_at_once: true,
            skew: 0,
            off: self.rng.i64(-MINUTE..=MINUTE),
            calling: false,
            runs: BTreeMap::new(),
            unwritten: Vec::new(),
            round_at: None,
        }
    }

    fn name(&self, place: usize) -> String {
        format!("{place}-{}", self.instances[place].life)
    }

    fn lease(&self) -> TimeDelta {
        TimeDelta::milliseconds(self.plan.lease)
    }

    /// What an instance takes for the database's time.
    fn time_on(&self, place: usize) -> Time {
        let instance = &self.instances[place];
        self.plan.begin + TimeDelta::milliseconds(self.now + instance.off + instance.skew)
    }

    fn lives(&self, place: usize, life: u32) -> bool {
        self.instances[place].alive && self.instances[place].life == life
    }

    fn happen(&mut self, event: Event) {
        // A process that is stopped gets what happens when it goes on.
        let place = match &event {
            Event::Round(place) | Event::Reloads(place) => Some(*place),
            Event::Answered { to, .. } => Some(*to),
            Event::RunEnds { on, .. } | Event::Ended { on, .. } => Some(*on),
            _ => None,
        };
        if let Some(frozen) = place.and_then(|place| self.instances[place].frozen.as_mut()) {
            frozen.push(event);
            return;
        }
        match event {
            Event::Round(place) => {
                if self.instances[place].round_at == Some(self.now) {
                    self.instances[place].round_at = None;
                    self.round(place);
                }
            }
            Event::Arrives { from, life, call, delay, answered } => {
                let reply = if self.down { None } else { Some(self.execute(from, call)) };
                let reply = reply.filter(|_| answered);
                self.place(self.now + delay, Event::Answered { to: from, life, reply });
            }
            Event::Answered { to, life, reply } => {
                if self.lives(to, life) {
                    self.instances[to].calling = false;
                    self.answered(to, reply);
                }
            }
            Event::RunEnds { on, life, id } => self.run_ends(on, life, id),
            Event::Ends { on, life, id, to, answered } => self.ends(on, life, id, to, answered),
            Event::Ended { on, life, id, to } => {
                if self.lives(on, life)
                    && let Some(working) = self.instances[on].runs.remove(&id)
                {
                    if let Some(to) = to {
                        self.instances[on].unwritten.push((id, working.epoch, to));
                    }
                    self.poke(on, 0);
                }
            }
            Event::Thaws(place) => {
                let mut late = self.instances[place].frozen.take().unwrap_or_default();
                self.instances[place].round_at = None;
                self.rng.shuffle(&mut late);
                for event in late {
                    self.place(
                        self.now,
                        if matches!(event, Event::Round(_)) { Event::Round(place) } else { event },
                    );
                }
                self.poke(place, 0);
            }
            Event::Starts(place) => {
                let life = self.instances[place].life + 1;
                if !self.instances[place].alive {
                    let instance = self.instance();
                    self.instances[place] = Instance { life, alive: true, ..instance };
                    self.note(place, "starts", None, self.clock());
                    self.poke(place, 0);
                }
            }
            Event::Reloads(place) => {
                let instance = &mut self.instances[place];
                instance.variant = self.target;
                instance.due_queue.forget();
                self.poke(place, 0);
            }
            Event::DatabaseIsBack => self.down = false,
            Event::Resumes(Some(job)) => {
                self.ledger.jobs.get_mut(&job).into_iter().for_each(|state| state.paused = false);
            }
            Event::Resumes(None) => self.ledger.all_paused = false,
            Event::Fault => self.fault(),
            Event::Request => {
                self.request();
                let next = self.upto(DAY);
                self.place(next, Event::Request);
            }
            Event::Check => self.check(),
        }
    }

    /// A round after so long, unless there is one before.
    fn poke(&mut self, place: usize, after: Ms) {
        let at = self.now + after;
        let instance = &mut self.instances[place];
        if instance.alive && !instance.calling && instance.round_at.is_none_or(|round| round > at) {
            instance.round_at = Some(at);
            self.place(at, Event::Round(place));
        }
    }

    /// Somebody has written what the observer is to hear.
    fn poke_all(&mut self) {
        for place in 0..INSTANCES {
            self.poke(place, REQUEST_POLL_INTERVAL);
        }
    }

    fn call(&mut self, from: usize, call: Call) {
        self.instances[from].calling = true;
        let life = self.instances[from].life;
        if self.down {
            let at = self.upto(CALL_BOUND);
            return self.place(at, Event::Answered { to: from, life, reply: None });
        }
        let slow = self.now < self.slow_until;
        if self.rng.u32(0..if slow { 50 } else { 10_000 }) == 0 {
            // The process is stopped after it has planned, and goes on where it was.
            let there = self.about(SECOND, HOUR);
            self.trouble(self.now + there);
            return self.place(
                self.now + there,
                Event::Arrives { from, life, call, delay: 0, answered: true },
            );
        }
        if !slow {
            let reply = self.execute(from, call);
            self.instances[from].calling = false;
            return self.answered(from, Some(reply));
        }
        let (there, back) = (self.rng.i64(0..=8 * SECOND), self.rng.i64(0..=4 * SECOND));
        let lost = self.chance(10);
        // Who waits gives up in time, and never learns what became of it.
        let answered = !lost && there + back < CALL_BOUND;
        let delay = if answered { back } else { (CALL_BOUND - there).max(0) };
        self.place(self.now + there, Event::Arrives { from, life, call, delay, answered });
    }

    /// What the database does.
    fn execute(&mut self, from: usize, call: Call) -> Reply {
        let (name, lease) = (self.name(from), self.lease());
        match call {
            Call::Upkeep { ended, running } => {
                let held = self.ledger.observe(&name, lease);
                let mut news = false;
                for (id, epoch, to) in ended {
                    news |= self.ledger.finish(id, epoch, to);
                }
                let ours = self.ledger.renew(lease, &running);
                if held.is_ok() {
                    news |= self.ledger.reap() > 0;
                }
                if news {
                    self.poke_all();
                }
                Reply::Upkeep { clock: self.clock(), held, ours }
            }
            Call::Register(specs) => Reply::Registered(self.ledger.register(&specs)),
            Call::Hear(upstream_jobs) => {
                Reply::PendingRequests(self.ledger.poll_requests(&upstream_jobs))
            }
            Call::Claim { asks, planned_at } => {
                let answers = self.ledger.claim(lease, &asks);
                if answers.iter().any(|answer| answer.verdict == Verdict::Queue) {
                    self.poke_all();
                }
                Reply::Claimed { asks, answers, planned_at }
            }
        }
    }

    /// `Pipeline::round` and `Dispatcher::fire_due`, up to the next call.
    fn round(&mut self, place: usize) {
        self.rounds_now += 1;
        if self.rounds_now > ROUNDS_AT_ONCE {
            self.found.push(format!("instance {place} goes round and round without time passing"));
            return;
        }
        let now = self.now;
        let instance = &mut self.instances[place];
        if !instance.alive || instance.calling {
            return;
        }
        if instance.observes.is_some_and(|until| now >= until) {
            instance.observes = None;
            instance.due_queue.forget();
        }
        if now < instance.not_before {
            let after = instance.not_before - now;
            return self.poke(place, after);
        }
        if now >= instance.renew_at {
            instance.renew_at = now;
            let running = instance.runs.iter().map(|(id, run)| (*id, run.epoch)).collect();
            let ended = instance.unwritten.clone();
            return self.call(place, Call::Upkeep { ended, running });
        }
        if instance.observes.is_none() {
            return self.idle(place);
        }
        if instance.due_queue.is_empty() {
            let specs = DueQueue::specs(&self.configs[instance.variant], DATABASE);
            return self.call(place, Call::Register(specs));
        }
        if std::mem::take(&mut instance.partitions_at_once) {
            instance.due_queue.at_once(Builtin::Partitions);
        }
        if instance.heard.is_none_or(|at| now - at >= REQUEST_POLL_INTERVAL) {
            instance.heard = Some(now);
            let upstream_jobs = instance.due_queue.upstream_jobs();
            return self.call(place, Call::Hear(upstream_jobs));
        }
        self.settle(place);
    }

    /// `Dispatcher::settle`.
    fn settle(&mut self, place: usize) {
        let planned_at = self.time_on(place);
        let instance = &mut self.instances[place];
        let mut asks = Vec::new();
        instance.taken.clear();
        for mut ask in instance.due_queue.look(planned_at, false) {
            let Some((job, _)) = instance.due_queue.job(&ask.job) else { continue };
            let needs = matches!(
                ask.kind,
                ClaimKind::Due { fire: Some(_), .. } | ClaimKind::Queued { skip: None, .. }
            );
            let lane = if needs { instance.worker_slots.take(job) } else { None };
            if needs && lane.is_none() {
                continue;
            }
            if let ClaimKind::Rewind { to, cut } = &mut ask.kind
                && let Some(first) = self.ledger.reaching_over(&ask.job, *to)
            {
                *cut = instance.due_queue.cut(&ask.job, first, *to);
            }
            asks.push(ask);
            instance.taken.push(lane);
            if asks.len() == BATCH_MAX {
                break;
            }
        }
        if asks.is_empty() {
            return self.idle(place);
        }
        self.call(place, Call::Claim { asks, planned_at });
    }

    /// `Pipeline::idle`: until there is something to do.
    fn idle(&mut self, place: usize) {
        let time = self.time_on(place);
        let instance = &self.instances[place];
        let mut at = instance.renew_at;
        if let Some(until) = instance.observes {
            at = at.min(until);
            if let Some(next) = instance.due_queue.next() {
                at = at.min(self.now + (next - time).num_milliseconds().max(IDLE_LEAST));
            }
        }
        self.poke(place, (at - self.now).max(IDLE_LEAST));
    }

    fn answered(&mut self, place: usize, reply: Option<Reply>) {
        let (now, lease) = (self.now, self.plan.lease);
        let Some(reply) = reply else {
            let instance = &mut self.instances[place];
            instance.taken.clear();
            instance.not_before = now + instance.backoff;
            instance.backoff = (instance.backoff * 2).min(BACKOFF_MAX);
            return self.poke(place, 0);
        };
        let time = self.time_on(place);
        let instance = &mut self.instances[place];
        instance.backoff = 100;
        match reply {
            Reply::Upkeep { clock, held, ours } => {
                let asked = instance.renew_at;
                let own = self.plan.begin + TimeDelta::milliseconds(now + instance.off);
                instance.skew = (clock - own).num_milliseconds();
                let again = match held {
                    Ok(_) => {
                        if instance.observes.replace(asked + lease - TRUST_MARGIN).is_none() {
                            instance.due_queue.forget();
                            instance.partitions_at_once = true;
                        }
                        lease / 3
                    }
                    Err(left) => {
                        if instance.observes.take().is_some() {
                            instance.due_queue.forget();
                        }
                        left.num_milliseconds().clamp(0, lease / 3)
                    }
                };
                instance.renew_at = (asked + again).max(now + IDLE_LEAST);
                instance.unwritten.clear();
                // A run that another took over is aborted.
                instance.runs.retain(|id, _| ours.contains(id));
            }
            Reply::Registered(rows) => {
                instance.due_queue.adopt(&self.configs[instance.variant], DATABASE, rows);
                instance.heard = None;
            }
            Reply::PendingRequests(heard) => instance.due_queue.poll_requests(&heard),
            Reply::Claimed { asks, answers, planned_at } => {
                let worker_slots = std::mem::take(&mut instance.taken);
                let (mut moved, mut known) = (false, true);
                for (ask, answer) in asks.iter().zip(&answers) {
                    moved |= !matches!(answer.verdict, Verdict::Defer);
                    known &= instance.due_queue.answered(ask, answer, time);
                }
                if !known {
                    instance.due_queue.forget();
                }
                for ((ask, answer), lane) in asks.iter().zip(&answers).zip(worker_slots) {
                    if let (Verdict::Run, Some(run), Some(lane)) =
                        (answer.verdict, answer.run, lane)
                    {
                        self.begins(place, ask, run, lane, planned_at);
                    } else if let ClaimKind::Rewind { to, .. } = ask.kind {
                        self.note(place, "rewinds", Some(&ask.job), to);
                    } else if let ClaimKind::Due { missed, .. } = &ask.kind
                        && let Some(first) = missed.first()
                    {
                        self.note(place, first.reason.as_str(), Some(&ask.job), first.first);
                    }
                }
                if !known {
                    return self.poke(place, REQUEST_POLL_INTERVAL);
                }
                if !moved {
                    self.idle(place);
                    // What is held is asked for again; the pipeline does so each second.
                    return self.poke(place, 10 * SECOND);
                }
            }
        }
        self.poke(place, 0);
    }

    fn begins(
        &mut self,
        place: usize,
        ask: &ClaimRequest,
        run: Run,
        lane: WorkerSlot,
        planned_at: Time,
    ) {
        self.note(place, "runs", Some(&ask.job), run.due_at);
        let queued = matches!(ask.kind, ClaimKind::Queued { .. });
        let wrong =
            self.oracle.begins(&self.ledger, &self.gates, &ask.job, run, queued, planned_at);
        self.found.extend(wrong);
        let takes = match self.rng.u32(0..100) {
            0..80 => self.about(100, MINUTE),
            80..95 => self.about(MINUTE, 20 * MINUTE),
            _ => self.about(20 * MINUTE, 80 * MINUTE),
        };
        let transactional = ask.job.as_str() != Builtin::Partitions.as_str();
        let instance = &mut self.instances[place];
        instance.runs.insert(run.id, Working { epoch: run.epoch, transactional, _lane: lane });
        let life = instance.life;
        self.place(self.now + takes, Event::RunEnds { on: place, life, id: run.id });
    }

    /// The work is done, or has failed.
    fn run_ends(&mut self, on: usize, life: u32, id: Uuid) {
        if !self.lives(on, life) || !self.instances[on].runs.contains_key(&id) {
            return;
        }
        let to = match self.rng.u32(0..100) {
            0..85 => "succeeded",
            85..95 => "failed",
            _ => "timed_out",
        };
        if self.down {
            let at = self.upto(CALL_BOUND);
            return self.place(at, Event::Ended { on, life, id, to: Some("failed") });
        }
        let slow = self.now < self.slow_until;
        let there = if slow { self.rng.i64(0..=20 * SECOND) } else { 0 };
        let answered = !(slow && self.chance(10));
        self.place(self.now + there, Event::Ends { on, life, id, to, answered });
    }

    /// `runs::fence`, the effect and `finish_in` as one transaction; of a job that is several, the end
    /// comes after it, and may find itself too late.
    fn ends(&mut self, on: usize, life: u32, id: Uuid, to: &'static str, answered: bool) {
        // A commit under way is the server's, even when its client has died. What was not sent is not.
        let Some(working) = self.instances[on].runs.get(&id).filter(|_| self.lives(on, life))
        else {
            return;
        };
        let (epoch, transactional) = (working.epoch, working.transactional);
        if self.down {
            return self.place(self.now, Event::Ended { on, life, id, to: Some("failed") });
        }
        let mut written = false;
        let mut to = to;
        if to == "succeeded" && !self.ledger.effect(id, epoch) {
            (to, written) = ("failed", true);
        }
        let late = !transactional && self.chance(3);
        if !late && !written {
            self.ledger.finish(id, epoch, to);
            self.poke_all();
        }
        // Who lost the answer says what it believes, and the row knows better.
        let unwritten = if !answered {
            Some("failed")
        } else if late {
            Some(to)
        } else {
            None
        };
        self.place(self.now, Event::Ended { on, life, id, to: unwritten });
    }

    fn trouble(&mut self, until: Ms) {
        // Leases pass, who takes over looks around, and a watermark is waited for up to a minute.
        let until = until + 2 * self.plan.lease + 2 * MINUTE;
        if until > self.troubled_until {
            self.troubled_until = until;
            self.place(until + SECOND, Event::Check);
        }
    }

    fn some_job(&mut self) -> Option<JobName> {
        let names: Vec<&JobName> = self.ledger.jobs.keys().collect();
        (!names.is_empty()).then(|| names[self.rng.usize(0..names.len())].clone())
    }

    fn request(&mut self) {
        if let Some(job) = self.some_job().filter(|_| !self.down) {
            if self.chance(20) {
                self.ledger.cancel(&job);
            } else {
                self.ledger.ask(&job);
            }
            self.poke_all();
        }
    }

    fn fault(&mut self) {
        // The last part of the time is for coming to an end.
        let quiet_from = self.plan.length - 12 * HOUR;
        let next = self.between_faults();
        if next < quiet_from {
            self.place(next, Event::Fault);
        }
        let left = quiet_from - self.now;
        if left < MINUTE {
            return;
        }
        self.faults += 1;
        let place = self.rng.usize(0..INSTANCES);
        match self.rng.u32(0..100) {
            0..25 => {
                self.note(place, "dies", None, self.clock());
                let instance = &mut self.instances[place];
                instance.alive = false;
                instance.runs.clear();
                instance.frozen = None;
                let back = self.now + self.about(SECOND, 3 * HOUR).min(left);
                self.place(back, Event::Starts(place));
                self.trouble(back);
            }
            25..45 => {
                if self.instances[place].alive && self.instances[place].frozen.is_none() {
                    self.note(place, "freezes", None, self.clock());
                    self.instances[place].frozen = Some(Vec::new());
                    let back = self.now + self.about(SECOND, HOUR).min(left);
                    self.place(back, Event::Thaws(place));
                    self.trouble(back);
                }
            }
            45..55 => {
                if !self.down {
                    self.note(place, "the database goes", None, self.clock());
                    self.down = true;
                    let back = self.now + self.about(SECOND, 3 * DAY).min(left);
                    self.place(back, Event::DatabaseIsBack);
                    self.trouble(back);
                }
            }
            55..65 => {
                self.note(place, "the database is slow", None, self.clock());
                self.slow_until = self.now + self.about(10 * SECOND, 2 * HOUR).min(left);
                self.trouble(self.slow_until);
            }
            65..80 => {
                let step = self.about(500, 2 * DAY) * if self.chance(60) { -1 } else { 1 };
                self.wrong = (self.wrong + step).clamp(-WRONG_MAX, WRONG_MAX);
                self.ledger.clock = self.clock();
                self.note(
                    place,
                    if step < 0 { "the clock is set back" } else { "the clock is set forward" },
                    None,
                    self.clock(),
                );
                self.trouble(self.now);
            }
            80..85 => {
                self.instances[place].off += self.rng.i64(-2 * HOUR..=2 * HOUR);
                self.trouble(self.now);
            }
            85..92 => {
                let job = self.some_job().filter(|_| self.rng.bool());
                match job.as_ref().and_then(|job| self.ledger.jobs.get_mut(job)) {
                    Some(state) => state.paused = true,
                    None => self.ledger.all_paused = true,
                }
                self.note(place, "paused", job.as_ref(), self.clock());
                let back = self.now + self.about(MINUTE, 2 * DAY).min(left);
                self.place(back, Event::Resumes(job));
            }
            _ => {
                self.target = self.rng.usize(0..jobs::VARIANTS);
                self.note(self.target, "a new configuration", None, self.clock());
                let mut last = self.now;
                for place in 0..INSTANCES {
                    let at = self.now + self.about(SECOND, HOUR).min(left);
                    self.place(at, Event::Reloads(place));
                    last = last.max(at);
                }
                self.trouble(last);
            }
        }
    }

    /// Without a fault, time does not stand still for any job.
    fn check(&mut self) {
        if self.now < self.troubled_until {
            return;
        }
        let observers: Vec<usize> =
            (0..INSTANCES).filter(|place| self.instances[*place].observes.is_some()).collect();
        let [observer] = observers[..] else {
            self.found.push(format!("{} instances observe", observers.len()));
            return;
        };
        let full =
            self.instances[observer].runs.len() + 1 >= self.configs[0].jobs.max_concurrent as usize;
        let clock = self.clock();
        let stuck = self.oracle.progress(&self.ledger, &self.gates, clock, full);
        self.found.extend(stuck);
    }
}

fn span(ms: Ms) -> String {
    let (days, rest) = (ms / DAY, ms % DAY);
    format!(
        "day {days} {:02}:{:02}:{:02}.{:03}",
        rest / HOUR,
        rest % HOUR / MINUTE,
        rest % MINUTE / SECOND,
        rest % SECOND
    )
}

/// For bounds of time.
pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}
