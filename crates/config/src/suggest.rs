//! "Did you mean": the known word that is nearest to a misspelt one.
//!
//! Decides:  how near a word must be to be offered.
//! Not here: which words are known (the keyword entries).

/// The nearest of the candidates, if it is near enough; the first of equals.
///
/// Distance counts letters added, left out or replaced, and neighbours swapped. A word of up to two
/// letters gets no suggestion unless it differs in case only; then a third of the letters may
/// differ. A candidate that begins with the word (`timeout cl`) is near too.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > MAX_WORD {
        return None;
    }
    let typed: Vec<char> = word.to_lowercase().replace('_', "-").chars().collect();
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let known: Vec<char> = candidate.to_lowercase().replace('_', "-").chars().collect();
        let far = limit(typed.len().max(known.len()));
        let mut cost = 2 * distance(&typed, &known);
        if cost > 2 * far && typed.len() >= 4 && known.starts_with(&typed) {
            cost = 2 * far + 1;
        } else if cost > 2 * far {
            continue;
        }
        if candidate != word && best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Longer words are no misspelt keywords.
const MAX_WORD: usize = 64;

fn limit(letters: usize) -> usize {
    match letters {
        0..=2 => 0,
        3..=5 => 1,
        6..=8 => 2,
        _ => letters / 3,
    }
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let replace = last[j] + usize::from(x != y);
            let mut cost = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_offered_and_far_ones_are_not() {
        let known = [
            "shards",
            "interface",
            "maxconn",
            "ssl",
            "timeout client",
            "timeout connect",
            "tfo",
            "server",
            "retries",
            "default_backend",
            "bind",
        ];
        let table = [
            ("shard", Some("shards")),
            ("shrads", Some("shards")),
            ("Maxconn", Some("maxconn")),
            ("max-conn", Some("maxconn")),
            ("timeout clinet", Some("timeout client")),
            ("default-backend", Some("default_backend")),
            ("interf", Some("interface")),
            ("sll", Some("ssl")),
            ("ab", None),
            ("TFO", Some("tfo")),
            ("cookie", None),
            ("http-request", None),
            ("bnid", Some("bind")),
            ("", None),
        ];
        for (word, expected) in table {
            assert_eq!(suggest(word, known), expected, "{word}");
        }
        assert_eq!(
            suggest("bind", ["bind"]),
            None,
            "a word is no suggestion for itself"
        );
    }

    #[test]
    fn distance_is_symmetric_and_zero_only_for_equals() {
        let words: Vec<Vec<char>> = ["", "a", "ab", "ba", "abc", "acb", "cab", "aabb"]
            .iter()
            .map(|w| w.chars().collect())
            .collect();
        for a in &words {
            for b in &words {
                assert_eq!(distance(a, b), distance(b, a));
                assert_eq!(distance(a, b) == 0, a == b);
            }
        }
    }
}
