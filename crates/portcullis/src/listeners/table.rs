//! Rows as a table for a terminal, or for a file.
//!
//! Decides:  the columns, which of them go when the terminal is narrow, how numbers are written.
//! Not here: what is in a row (rows.rs), when it is drawn again (watch.rs).

use std::fmt::Write as _;

use portcullis_inspect::plain;

use super::rows::{Options, Row};
use super::watch::Rates;

/// No column but the first is narrower, and the owner's is cut before a column goes.
const ADDRESS_MIN: usize = 16;
const OWNER_MIN: usize = 12;
/// Command names have no more than 15 characters; with a number and others this much.
const OWNER_MAX: usize = 32;

/// How a table is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// The terminal's columns; `None` for as many as are needed.
    pub width: Option<usize>,
    /// Its lines: more rows are left out, and counted.
    pub height: Option<usize>,
    pub colours: bool,
    /// Whether the namespaces are named.
    pub namespaces: bool,
}

/// The columns in their order, and in which order they go where there is no room: the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Namespace,
    Address,
    Owner,
    User,
    Unit,
    Options,
    Shards,
    Queue,
    Drops,
    Connections,
    Age,
}

const COLUMNS: [(Column, &str, u8); 11] = [
    (Column::Namespace, "NETNS", 0),
    (Column::Address, "ADDRESS", 0),
    (Column::Owner, "OWNER", 0),
    (Column::User, "USER", 3),
    (Column::Unit, "UNIT", 5),
    (Column::Options, "OPTIONS", 6),
    (Column::Shards, "SHARDS", 2),
    (Column::Queue, "QUEUE", 0),
    (Column::Drops, "DROPS", 1),
    (Column::Connections, "CONNS", 4),
    (Column::Age, "AGE", 7),
];

/// The table, a line each; traps stand on a line of their own below the row.
pub fn table(rows: &[Row], rates: Option<&Rates>, look: Look) -> String {
    let mut columns: Vec<(Column, Vec<String>)> = COLUMNS
        .iter()
        .map(|&(column, head, _)| {
            let cells = rows.iter().map(|row| cell(column, row, rates));
            (
                column,
                std::iter::once(head.to_owned()).chain(cells).collect(),
            )
        })
        .collect();
    columns.retain(|(column, cells)| match column {
        Column::Namespace => look.namespaces,
        Column::Shards | Column::Unit | Column::Options => {
            cells.iter().skip(1).any(|cell| cell != "-")
        }
        _ => true,
    });
    if let Some(width) = look.width {
        narrow(&mut columns, width);
    }
    let widths: Vec<usize> = columns.iter().map(|(_, cells)| widest(cells)).collect();
    let mut text = String::new();
    let mut lines = 0;
    let room = look.height.unwrap_or(usize::MAX);
    text += &paint(look, "1", &line(&columns, &widths, 0, look.width));
    text.push('\n');
    for (at, row) in rows.iter().enumerate() {
        let traps = trap_lines(row, look);
        if lines + 1 + traps.len() > room {
            let _ = writeln!(text, "… {} more", rows.len() - at);
            break;
        }
        lines += 1 + traps.len();
        text += &line(&columns, &widths, at + 1, look.width);
        text.push('\n');
        for trap in traps {
            text += &paint(look, "33", &trap);
            text.push('\n');
        }
    }
    text
}

/// Takes columns away, and cuts the two long ones, until a line fits.
fn narrow(columns: &mut Vec<(Column, Vec<String>)>, width: usize) {
    let needed = |columns: &[(Column, Vec<String>)]| {
        let cells: usize = columns.iter().map(|(_, cells)| widest(cells)).sum();
        cells + 2 * columns.len().saturating_sub(1)
    };
    loop {
        let all = needed(columns);
        if all <= width {
            return;
        }
        let owner = columns
            .iter_mut()
            .find(|(column, _)| *column == Column::Owner);
        if let Some((_, cells)) = owner
            && let own = widest(cells)
            && own > OWNER_MIN
            && own - OWNER_MIN >= all - width
        {
            cut(cells, own - (all - width));
            return;
        }
        let rank = |column: Column| {
            let mut all = COLUMNS.iter();
            all.find(|(known, ..)| *known == column)
                .map_or(0, |known| known.2)
        };
        let last = columns
            .iter()
            .map(|(column, _)| rank(*column))
            .max()
            .unwrap_or(0);
        if last == 0 {
            break;
        }
        columns.retain(|(column, _)| rank(*column) != last);
    }
    for (column, least) in [(Column::Owner, OWNER_MIN), (Column::Address, ADDRESS_MIN)] {
        let over = needed(columns).saturating_sub(width);
        if let Some((_, cells)) = columns.iter_mut().find(|(known, _)| *known == column) {
            let own = widest(cells);
            cut(cells, own.saturating_sub(over).max(least));
        }
    }
}

fn widest(cells: &[String]) -> usize {
    cells
        .iter()
        .map(|cell| cell.chars().count())
        .max()
        .unwrap_or(0)
}

fn cut(cells: &mut [String], to: usize) {
    for cell in cells {
        if cell.chars().count() > to {
            *cell = cell
                .chars()
                .take(to.saturating_sub(1))
                .chain(['…'])
                .collect();
        }
    }
}

fn line(
    columns: &[(Column, Vec<String>)],
    widths: &[usize],
    at: usize,
    width: Option<usize>,
) -> String {
    let mut text = String::new();
    for ((column, cells), &wide) in columns.iter().zip(widths) {
        let cell = cells.get(at).map_or("", String::as_str);
        let is_number = matches!(
            column,
            Column::Queue | Column::Drops | Column::Connections | Column::Age
        );
        let _ = match is_number {
            true => write!(text, "{cell:>wide$}  "),
            false => write!(text, "{cell:<wide$}  "),
        };
    }
    let text = text.trim_end();
    text.chars().take(width.unwrap_or(usize::MAX)).collect()
}

fn trap_lines(row: &Row, look: Look) -> Vec<String> {
    let lines = row
        .traps
        .iter()
        .map(|trap| format!("  ! {}: {}", trap.word, trap.detail));
    let fit = |line: String| match look.width {
        Some(width) if line.chars().count() > width => line
            .chars()
            .take(width.saturating_sub(1))
            .chain(['…'])
            .collect(),
        _ => line,
    };
    lines.map(fit).collect()
}

fn paint(look: Look, code: &str, text: &str) -> String {
    match look.colours {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

fn cell(column: Column, row: &Row, rates: Option<&Rates>) -> String {
    let none = || "-".to_owned();
    let first = row.owners.first();
    match column {
        Column::Namespace => row
            .netns_name
            .clone()
            .unwrap_or_else(|| row.netns.to_string()),
        Column::Address => match &row.device {
            Some(device) => format!("{}%{device}", plain(&row.address)),
            None => plain(&row.address),
        },
        Column::Owner => match first {
            None => none(),
            Some(owner) => {
                let mut text = format!("{} {}", plain(&owner.program), owner.pid);
                if row.owners.len() > 1 {
                    let _ = write!(text, " +{}", row.owners.len() - 1);
                }
                text.chars().take(OWNER_MAX).collect()
            }
        },
        Column::User => {
            let user = first.and_then(|owner| owner.user.clone());
            user.or_else(|| row.user.clone())
                .or_else(|| row.uid.map(|uid| uid.to_string()))
                .map_or_else(none, |user| plain(&user))
        }
        Column::Unit => {
            let container = first.and_then(|owner| owner.container.clone());
            let unit = first.and_then(|owner| owner.unit.clone());
            container.or(unit).map_or_else(none, |unit| plain(&unit))
        }
        Column::Options => options(row),
        Column::Shards => match (row.shards.len(), row.uneven) {
            (0, _) => none(),
            (count, None) => count.to_string(),
            (count, Some(times)) if times < 1.25 => format!("{count} even"),
            (count, Some(times)) => format!("{count} x{times:.1}"),
        },
        Column::Queue => {
            let peak = rates
                .and_then(|rates| rates.peak(row))
                .filter(|&peak| peak > row.queue);
            let peak = peak.map_or(String::new(), |peak| format!(" (peak {peak})"));
            format!("{}/{}{peak}", row.queue, row.limit)
        }
        Column::Drops => match row.drops {
            None => none(),
            Some(drops) => match rates.and_then(|rates| rates.drops(row)) {
                Some(rate) if rate > 0.0 => format!("{drops} (+{}/s)", short(rate)),
                _ => drops.to_string(),
            },
        },
        Column::Connections => match rates.and_then(|rates| rates.connections(row)) {
            Some(rate) if rate.abs() >= 0.05 => format!(
                "{} ({}{}/s)",
                row.connections,
                if rate > 0.0 { "+" } else { "-" },
                short(rate.abs())
            ),
            _ => row.connections.to_string(),
        },
        Column::Age => row.age_s.map_or_else(none, age),
    }
}

fn options(row: &Row) -> String {
    let Options {
        reuseaddr,
        reuseport,
        v6only,
        transparent,
        freebind,
    } = row.options;
    let mut names = Vec::new();
    if row.protocol == "mptcp" {
        names.push("mptcp".to_owned());
    }
    for (name, value) in [
        ("reuseaddr", reuseaddr),
        ("reuseport", reuseport),
        ("v6only", v6only),
        ("transparent", transparent),
        ("freebind", freebind),
    ] {
        match value {
            Some(true) => names.push(name.to_owned()),
            None if row.at.is_some() && name.starts_with("reuse") => names.push(format!("{name}?")),
            _ => {}
        }
    }
    if names.is_empty() {
        "-".to_owned()
    } else {
        names.join(",")
    }
}

/// `7s`, `12m`, `3h`, `41d`.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn short(rate: f64) -> String {
    if rate < 10.0 {
        format!("{rate:.1}")
    } else {
        format!("{rate:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::rows::tests::{host, listener, process_called, shard_of};
    use crate::listeners::rows::{Marked, Unix, rows};

    const WIDE: Look = Look {
        width: None,
        height: None,
        colours: false,
        namespaces: false,
    };

    fn some() -> Vec<Row> {
        let snapshot = host(
            vec![
                shard_of("0.0.0.0:80", 7),
                shard_of("0.0.0.0:80", 8),
                listener("[2001:db8:1111:2222:3333:4444:5555:6666]:8080", 9),
            ],
            vec![
                process_called("a-long-program", 7, 1),
                process_called("b", 8, 7),
                process_called("evil\x1b[2J", 9, 1),
            ],
        );
        let mut rows = rows(&snapshot, Unix::Without);
        rows[0].traps.push(Marked {
            word: "drops",
            detail: "12 since it listens".into(),
        });
        rows
    }

    #[test]
    fn a_wide_table_has_every_column_and_a_trap_below_its_row() {
        let text = table(&some(), None, WIDE);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            [
                "ADDRESS", "OWNER", "USER", "OPTIONS", "SHARDS", "QUEUE", "DROPS", "CONNS", "AGE"
            ],
            "nothing is in a unit, so there is no such column"
        );
        assert_eq!(lines[2], "  ! drops: 12 since it listens");
        assert!(
            lines[1].contains("a-long-program 7 +1  www-data  reuseaddr,reuseport  2  "),
            "{text}"
        );
        assert!(
            !text.contains('\x1b'),
            "a program's name writes nothing on the terminal"
        );
        assert!(lines[3].contains("evil?[2J 9"), "{text}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_whatever_its_width() {
        for width in 1..160 {
            let look = Look {
                width: Some(width),
                ..WIDE
            };
            let text = table(&some(), None, look);
            for line in text.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
            if width >= 60 {
                assert!(
                    text.contains("0.0.0.0:80 ") && text.contains("QUEUE"),
                    "{width}: {text}"
                );
            }
        }
    }

    #[test]
    fn rows_beyond_the_terminals_lines_are_counted() {
        let look = Look {
            height: Some(2),
            ..WIDE
        };
        let text = table(&some(), None, look);
        assert!(text.ends_with("… 1 more\n"), "{text}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn ages_are_written_for_people() {
        let table = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3_600, "1h"),
            (172_800, "2d"),
        ];
        for (seconds, text) in table {
            assert_eq!(age(seconds), text);
        }
    }
}
