//! The scenarios of crates/kernel-model/cases, with the rules that they name.
//!
//! Decides:  at which rule a scenario is quoted: the one that fewest scenarios name.
//! Source:   the files, run in the model to see answers and ways out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use portcullis_conformance::script::{self, Mode, Outcome, Run, Script, Settings};
use portcullis_kernel_model::{Rule, SocketId};

use crate::workspace::{self, Failure};

/// The directory of the scenarios, below the root.
const CASES: &str = "crates/kernel-model/cases";

/// A scenario.
#[derive(Debug)]
pub struct Case {
    /// Its file's name without `.bind`.
    pub name: String,
    /// The file.
    pub text: String,
    /// The rules that its lines name.
    pub by: BTreeSet<Rule>,
    /// For each rule that refuses a line here, the first such line and the ways out of it.
    pub ways: BTreeMap<Rule, (String, Vec<String>)>,
    /// The errors and waits that each rule answered with.
    answers: BTreeMap<Rule, BTreeSet<String>>,
}

impl Case {
    /// The scenario as code, without the lines that say where its statements come from.
    pub fn fenced(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.starts_with("from "));
        let body: Vec<&str> = lines.collect();
        format!("```bind\n{}\n```\n", body.join("\n").trim_matches('\n'))
    }

    /// Its name as a sentence, leading to its file.
    pub fn link(&self) -> String {
        let sentence = self.name.replace('_', " ");
        let mut letters = sentence.chars();
        let first: String = letters
            .next()
            .map_or(String::new(), |c| c.to_uppercase().collect());
        format!(
            "[{first}{}](../{CASES}/{}.bind)",
            letters.as_str(),
            self.name
        )
    }
}

/// All scenarios, by name.
#[derive(Debug)]
pub struct Library {
    /// In the order of their names.
    pub cases: Vec<Case>,
    home: BTreeMap<String, Rule>,
}

impl Library {
    /// Reads and runs them.
    pub fn read() -> Result<Library, Failure> {
        let mut cases = Vec::new();
        for entry in std::fs::read_dir(workspace::root().join(CASES))? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "bind") {
                cases.push(case(&path)?);
            }
        }
        cases.sort_by(|a, b| a.name.cmp(&b.name));
        let mut named: BTreeMap<Rule, usize> = BTreeMap::new();
        for rule in cases.iter().flat_map(|case| &case.by) {
            *named.entry(*rule).or_default() += 1;
        }
        let home = cases.iter().filter_map(|case| {
            let rarest = case
                .by
                .iter()
                .min_by_key(|rule| (named.get(rule).copied(), rule.chapter(), **rule))?;
            Some((case.name.clone(), *rarest))
        });
        let home = home.collect();
        Ok(Library { cases, home })
    }

    /// The scenarios that are quoted at this rule.
    pub fn at_home(&self, rule: Rule) -> Vec<&Case> {
        let here = |case: &&Case| self.home.get(&case.name) == Some(&rule);
        self.cases.iter().filter(here).collect()
    }

    /// The scenarios that name no rule: of a connection's own states.
    pub fn of_connections(&self) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(|case| case.by.is_empty())
    }

    /// The scenarios that name this rule and are quoted elsewhere.
    pub fn elsewhere(&self, rule: Rule) -> Vec<&Case> {
        let named =
            |case: &&Case| case.by.contains(&rule) && self.home.get(&case.name) != Some(&rule);
        self.cases.iter().filter(named).collect()
    }

    /// What a call that this rule refused answered, over all scenarios.
    pub fn answers(&self, rule: Rule) -> Vec<String> {
        let all = self.cases.iter().filter_map(|case| case.answers.get(&rule));
        let all: BTreeSet<&String> = all.flatten().collect();
        all.into_iter()
            .map(|answer| format!("`{answer}`"))
            .collect()
    }
}

/// Why a rule has no scenario.
pub fn without_scenario(rule: Rule) -> Option<&'static str> {
    script::WITHOUT_SCENARIO
        .iter()
        .find(|entry| entry.0 == rule)
        .map(|entry| entry.1)
}

fn case(path: &Path) -> Result<Case, Failure> {
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let text = std::fs::read_to_string(path)?;
    let script = script::parse(&text, Settings::default())
        .map_err(|problems| problems[0].render(&name, &text))?;
    let by = script
        .steps
        .iter()
        .filter_map(|step| step.expect.as_ref())
        .flat_map(|expect| expect.by.iter().copied())
        .collect();
    let mut case = Case {
        name,
        text,
        by,
        ways: BTreeMap::new(),
        answers: BTreeMap::new(),
    };
    run(&mut case, &script)?;
    Ok(case)
}

fn run(case: &mut Case, script: &Script) -> Result<(), Failure> {
    let mut run = Run::prepare(script, Mode::Model)
        .map_err(|_| format!("{}: its host cannot be made", case.name))?;
    if let Some(model) = &mut run.model {
        model.find_ways();
    }
    for step in &script.steps {
        let row = run.step(step);
        let (Some(seen), Some(last)) = (&row.model, row.reasons.last()) else {
            continue;
        };
        let answer = match seen.outcome {
            Outcome::Err(number) => script::errno(number),
            Outcome::Blocks => "waits".to_owned(),
            _ => continue,
        };
        case.answers.entry(last.rule).or_default().insert(answer);
        let name = |socket: SocketId, out: &mut dyn std::fmt::Write| {
            let slot = row.known.iter().rposition(|&other| other == Some(socket));
            out.write_str(slot.map_or("another socket", |slot| &script.labels[slot]))
        };
        let ways = row.ways.iter().map(|way| way.told(&name).to_string());
        case.ways
            .entry(last.rule)
            .or_insert_with(|| (step.said.clone(), ways.collect()));
    }
    Ok(())
}
