//! Which rows are shown, and in which order.
//!
//! Decides:  what a word of the command line fits; what is more and comes first.
//! Not here: the rows (rows.rs), how they look (table.rs).

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;

use super::rows::{Owner, Row};

/// The order of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// By port, then address
    #[default]
    Port,
    /// By program
    Owner,
    /// The fullest accept queue first
    Queue,
    /// Most drops first
    Drops,
    /// Most connections first
    Connections,
    /// The youngest first
    Age,
}

/// Whether a row is of the port, address, or has the text in its program, command line, unit, container,
/// user, device or a trap's word.
pub fn fits(row: &Row, word: &str) -> bool {
    let number = word.strip_prefix(':').unwrap_or(word);
    if let Ok(port) = number.parse::<u16>() {
        return row.port == Some(port);
    }
    if let Ok(at) = word.parse::<SocketAddr>() {
        return row.at == Some(at);
    }
    let bare = word
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Ok(ip) = bare.unwrap_or(word).parse::<IpAddr>() {
        return row.at.is_some_and(|at| at.ip() == ip);
    }
    let of_owner = |owner: &Owner| {
        let named = [&owner.user, &owner.unit, &owner.container];
        owner.program.contains(word)
            || owner.command.iter().any(|part| part.contains(word))
            || named.into_iter().flatten().any(|text| text.contains(word))
    };
    row.owners.iter().any(of_owner)
        || row.device.as_deref() == Some(word)
        || row.traps.iter().any(|trap| trap.word == word)
        || (row.at.is_none() && row.address.contains(word))
}

/// Puts rows in order; those of one namespace stay together, in the order of the namespaces.
pub fn sort(rows: &mut [Row], order: Order, reverse: bool) {
    let mut namespaces: Vec<u64> = Vec::new();
    for row in rows.iter() {
        if !namespaces.contains(&row.netns) {
            namespaces.push(row.netns);
        }
    }
    rows.sort_by_key(|row| (row.port.is_none(), row.port, row.at, row.address.clone()));
    match order {
        Order::Port => {}
        Order::Owner => {
            rows.sort_by_key(|row| row.owners.first().map(|owner| owner.program.clone()));
        }
        Order::Queue => rows.sort_by_key(|row| Reverse(row.queue)),
        Order::Drops => rows.sort_by_key(|row| Reverse(row.drops)),
        Order::Connections => rows.sort_by_key(|row| Reverse(row.connections)),
        Order::Age => rows.sort_by_key(|row| (row.age_s.is_none(), row.age_s)),
    }
    if reverse {
        rows.reverse();
    }
    rows.sort_by_key(|row| namespaces.iter().position(|&known| known == row.netns));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::rows::tests::{host, listener, process_called};
    use crate::listeners::rows::{Unix, rows};

    #[test]
    fn words_fit_ports_addresses_and_text() {
        let snapshot = host(
            vec![listener("[::1]:8080", 7)],
            vec![process_called("nginx", 7, 1)],
        );
        let row = &rows(&snapshot, Unix::Without)[0];
        for word in [
            "8080",
            ":8080",
            "::1",
            "[::1]",
            "[::1]:8080",
            "ngin",
            "www-data",
        ] {
            assert!(fits(row, word), "{word}");
        }
        for word in ["80", "0.0.0.0", "[::1]:80", "apache"] {
            assert!(!fits(row, word), "{word}");
        }
    }

    #[test]
    fn every_order_puts_first_what_it_says() {
        let mut sockets = vec![
            listener("0.0.0.0:3", 7),
            listener("0.0.0.0:1", 8),
            listener("0.0.0.0:2", 9),
        ];
        sockets[1].receive_queue = 5;
        sockets[2].drops = Some(4);
        let processes = vec![
            process_called("z", 7, 1),
            process_called("y", 8, 1),
            process_called("x", 9, 1),
        ];
        let snapshot = host(sockets, processes);
        let table = [
            (Order::Port, false, [1, 2, 3]),
            (Order::Port, true, [3, 2, 1]),
            (Order::Owner, false, [2, 1, 3]),
            (Order::Queue, false, [1, 2, 3]),
            (Order::Drops, false, [2, 1, 3]),
            (Order::Age, false, [2, 1, 3]),
        ];
        for (order, reverse, ports) in table {
            let mut rows = rows(&snapshot, Unix::Without);
            sort(&mut rows, order, reverse);
            let told: Vec<u16> = rows.iter().filter_map(|row| row.port).collect();
            assert_eq!(told, ports, "{order:?} {reverse}");
        }
    }
}
