//! Links between documents lead somewhere.
//!
//! Decides:  a relative link of a Markdown file names a file or directory of the project, and a
//!           `#fragment` into a Markdown file names one of its headings.
//! Not here: links into the world.

use std::path::{Component, Path, PathBuf};

use super::Finding;

pub fn check(root: &Path, files: &[PathBuf], findings: &mut Vec<Finding>) {
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|end| end == "md"))
    {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else {
            continue;
        };
        for (line, link) in links(&text) {
            let (path, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let target = resolve(file, path);
            if !root.join(&target).exists() {
                let message = format!("the link `{link}` leads nowhere");
                findings.push(Finding::new(file, line, "link", message));
            } else if !fragment.is_empty() && target.extension().is_some_and(|end| end == "md") {
                let there = std::fs::read_to_string(root.join(&target)).unwrap_or_default();
                if !headings(&there).iter().any(|heading| heading == fragment) {
                    let message = format!("no heading `{fragment}` in {}", target.display());
                    findings.push(Finding::new(file, line, "link", message));
                }
            }
        }
    }
}

/// Where the relative links of a document lead, with the lines they stand on.
pub fn targets(file: &Path, text: &str) -> Vec<(usize, PathBuf)> {
    let without_fragment = |link: &str| link.split('#').next().unwrap_or_default().to_owned();
    links(text)
        .into_iter()
        .map(|(line, link)| (line, resolve(file, &without_fragment(&link))))
        .collect()
}

/// `a/./b/../c` is `a/c`.
pub fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

fn resolve(file: &Path, link: &str) -> PathBuf {
    if link.is_empty() {
        return file.to_owned();
    }
    normal(&file.parent().unwrap_or(Path::new("")).join(link))
}

/// `](target)` outside code fences, targets in the world left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for part in outside_code(line).split("](").skip(1) {
            let link = part.split(')').next().unwrap_or_default();
            if !link.contains("://") && !link.starts_with("mailto:") {
                found.push((index + 1, link.to_owned()));
            }
        }
    }
    found
}

/// The line without what stands in backticks, link texts' brackets kept.
fn outside_code(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// Headings as fragments: lower case, spaces as hyphens, punctuation gone.
fn headings(text: &str) -> Vec<String> {
    let title = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(title)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_and_resolved_from_where_they_stand() {
        let text = "see [a](../x.md#part), [b](https://e.org/), `[c](no.md)`\n```\n[d](no.md)\n```\n[`e`](y.md)";
        let found = targets(Path::new("docs/guide/z.md"), text);
        assert_eq!(
            found,
            [(1, "docs/x.md".into()), (5, "docs/guide/y.md".into())]
        );
    }

    #[test]
    fn a_heading_becomes_its_fragment() {
        assert_eq!(
            headings("# What it is: a `why`\ntext\n## 2. Two"),
            ["what-it-is-a-why", "2-two"]
        );
    }
}
