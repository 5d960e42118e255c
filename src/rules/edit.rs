//! Edits of documents as text: comments, order and quotes stay as somebody wrote them.

use super::documents::{Documents, parse};
use super::gray::{Share, hundredths};
use super::tree::{self, DocumentFile};
use crate::model::{RuleName, SourceName};

/// Why documents can't be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No document describes the source.
    #[error("no document describes source {0}; `setgate rules get` shows what is in force")]
    NoSource(SourceName),
    /// Its text isn't lines of `field: value`.
    #[error(
        "source {source_name} in {file} isn't written in lines to which one can be added; write `retired: true` there yourself, \
         and apply it"
    )]
    NotInLines {
        /// Which.
        source_name: SourceName,
        /// Where.
        file: String,
    },
    /// No document describes the rule.
    #[error("no document describes rule {0}; `setgate rules get` shows what is in force")]
    NoRule(RuleName),
    /// It has no share of keys.
    #[error(
        "rule {0} has no gray share of keys; write `gray: {{percent: 1, salt: WORD, unit: UNIT}}` into it and apply that first"
    )]
    NoShare(RuleName),
    /// What is written can't be changed, or what is wished is no share.
    #[error(
        "a number from 0 to 100 with at most two digits behind the point is needed, and `percent:` in rule {rule} in {file}"
    )]
    NoPercent {
        /// Which.
        rule: RuleName,
        /// Where.
        file: String,
    },
}

/// The file in which the source is retired from now on; `None` when it is retired already.
pub fn retire_source(
    files: &[DocumentFile],
    source: &SourceName,
) -> Result<Option<DocumentFile>, EditError> {
    for file in files {
        let text = String::from_utf8_lossy(&file.text);
        let chunks = tree::chunks(&text);
        let found = chunks
            .iter()
            .position(|chunk| describes(&read(chunk), source));
        let Some(at) = found else {
            continue;
        };
        if read(chunks[at]).sources.iter().any(|one| one.retired) {
            return Ok(None);
        }
        let line = format!("{}\nretired: true\n", chunks[at].trim_end());
        if !read(&line).sources.iter().any(|one| one.retired) {
            return Err(EditError::NotInLines {
                source_name: source.clone(),
                file: file.name.clone(),
            });
        }
        let before = chunks[..at].concat();
        let behind = chunks[at + 1..].concat();
        return Ok(Some(DocumentFile {
            name: file.name.clone(),
            text: format!("{before}{line}{behind}").into_bytes(),
        }));
    }
    Err(EditError::NoSource(source.clone()))
}

/// The file in which so many percent of a rule's keys are in its gray share from now on; `None` when they are already.
/// `percent` is a number as it is written in a document.
pub fn gray_share(
    files: &[DocumentFile],
    rule: &RuleName,
    percent: &str,
) -> Result<Option<DocumentFile>, EditError> {
    for file in files {
        let text = String::from_utf8_lossy(&file.text);
        let chunks = tree::chunks(&text);
        let share = |chunk: &str| {
            let rules = read(chunk).rules;
            let named = rules.iter().find(|one| one.name.value == *rule)?;
            Some(named.gray.as_ref().map(|gray| gray.share.clone()))
        };
        let found = chunks.iter().enumerate();
        let mut found = found.filter_map(|(at, chunk)| Some((at, *chunk, share(chunk)?)));
        let Some((at, chunk, before)) = found.next() else {
            continue;
        };
        let Some(Share::Keys { parts, salt }) = before else {
            return Err(EditError::NoShare(rule.clone()));
        };
        let unwritten = || EditError::NoPercent {
            rule: rule.clone(),
            file: file.name.clone(),
        };
        let wished = percent.parse().ok().and_then(hundredths);
        let wished = wished.ok_or_else(unwritten)?;
        if parts == wished {
            return Ok(None);
        }
        let wished = Share::Keys {
            parts: wished,
            salt,
        };
        // Whatever else says so is no number of this share: a comment, another field.
        let changed = chunk.match_indices(PERCENT).find_map(|(begin, _)| {
            let (before, behind) = chunk.split_at(begin + PERCENT.len());
            let number = behind.trim_start();
            let blank = behind.len() - number.len();
            let end = number
                .find(|one: char| !one.is_ascii_digit() && one != '.')
                .unwrap_or(number.len());
            let changed = format!("{before}{}{percent}{}", &behind[..blank], &number[end..]);
            (share(&changed)?? == wished).then_some(changed)
        });
        let changed = changed.ok_or_else(unwritten)?;
        let (front, rest) = (chunks[..at].concat(), chunks[at + 1..].concat());
        return Ok(Some(DocumentFile {
            name: file.name.clone(),
            text: format!("{front}{changed}{rest}").into_bytes(),
        }));
    }
    Err(EditError::NoRule(rule.clone()))
}

/// In front of the number.
const PERCENT: &str = "percent:";

/// The files without the source and the rules about it; one in which nothing else is isn't there any more.
pub fn without_source(files: &[DocumentFile], source: &SourceName) -> Vec<DocumentFile> {
    let kept = |file: &DocumentFile| {
        let text = String::from_utf8_lossy(&file.text);
        let all = tree::chunks(&text);
        let about = |chunk: &&str| {
            let documents = read(chunk);
            let rules = documents.rules.iter();
            describes(&documents, source)
                || rules.map(|one| &one.source).any(|of| of.value == *source)
        };
        let (gone, kept): (Vec<&str>, Vec<&str>) = all.into_iter().partition(about);
        if gone.is_empty() {
            return Some(file.clone());
        }
        let text = kept.concat();
        let blank = |line: &str| {
            let line = line.trim();
            line.is_empty() || line == "---" || line.starts_with('#')
        };
        (!text.lines().all(blank)).then(|| DocumentFile {
            name: file.name.clone(),
            text: text.into_bytes(),
        })
    };
    files.iter().filter_map(kept).collect()
}

fn read(chunk: &str) -> Documents {
    let file = DocumentFile {
        name: String::new(),
        text: chunk.as_bytes().to_vec(),
    };
    parse(&[file]).0
}

fn describes(documents: &Documents, source: &SourceName) -> bool {
    let mut sources = documents.sources.iter();
    sources.any(|one| one.name.value == *source)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# Everything about orders.
kind: source
name: orders # the first one
take: {exchange: orders, bindings: [{routing_key: \"#\"}]}
deliver: {exchange: orders.local}

---
kind: rule
name: by-user
source: orders
order: 1
route: local
--- # the catalog
kind: source
name: catalog
take: {exchange: catalog, bindings: [{routing_key: \"#\"}]}
";

    fn file(text: &str) -> [DocumentFile; 1] {
        [DocumentFile {
            name: "f.yaml".to_owned(),
            text: text.as_bytes().to_vec(),
        }]
    }

    fn text(file: &DocumentFile) -> &str {
        std::str::from_utf8(&file.text).unwrap()
    }

    #[test]
    fn a_line_retires_a_source_and_all_else_stays_as_it_is_written() {
        let orders = SourceName::parse("orders").unwrap();
        let retired = retire_source(&file(FILE), &orders).unwrap().unwrap();
        let expected = FILE.replace("orders.local}\n\n---", "orders.local}\nretired: true\n---");
        assert_eq!(text(&retired), expected);
        assert_eq!(retire_source(&[retired], &orders), Ok(None));
        let catalog = SourceName::parse("catalog").unwrap();
        let retired = retire_source(&file(FILE), &catalog).unwrap().unwrap();
        assert_eq!(text(&retired), format!("{FILE}retired: true\n"));
    }

    #[test]
    fn a_source_that_is_nowhere_or_not_in_lines_is_refused_with_what_to_do() {
        let orders = SourceName::parse("orders").unwrap();
        let nowhere = retire_source(&file("kind: rule\n"), &orders);
        assert!(matches!(nowhere, Err(EditError::NoSource(_))));
        let flow =
            "{kind: source, name: orders, take: {exchange: o, bindings: [{routing_key: a}]}}\n";
        let refused = retire_source(&file(flow), &orders).unwrap_err();
        assert!(refused.to_string().contains("f.yaml"), "{refused}");
    }

    const GRAY: &str = "# The first percent: of all.
kind: rule
name: by-user
source: orders
order: 1
route: owner
gray: {percent: 5, salt: g1, unit: bj-1}    # more on Monday
---
kind: rule
name: by-header
source: orders
order: 2
route: owner
gray: {header: {x-lane: gray}, unit: bj-1}
";

    #[test]
    fn a_gray_share_grows_and_all_else_stays_as_it_is_written() {
        let rule = RuleName::parse("by-user").unwrap();
        let changed = gray_share(&file(GRAY), &rule, "12.5").unwrap().unwrap();
        assert_eq!(text(&changed), GRAY.replace("percent: 5", "percent: 12.5"));
        assert_eq!(gray_share(&file(GRAY), &rule, "5.00"), Ok(None));
    }

    #[test]
    fn a_share_that_is_none_or_nowhere_is_refused() {
        let named = |name| RuleName::parse(name).unwrap();
        for (rule, percent) in [
            ("by-user", "101"),
            ("by-user", "x"),
            ("by-user", "5, salt: g2"),
            ("by-header", "5"),
            ("nobody", "5"),
        ] {
            let refused = gray_share(&file(GRAY), &named(rule), percent).unwrap_err();
            assert!(refused.to_string().contains("rule"), "{refused}");
        }
    }

    #[test]
    fn a_source_goes_with_its_rules_and_a_file_that_is_left_empty_too() {
        let orders = SourceName::parse("orders").unwrap();
        let left = without_source(&file(FILE), &orders);
        let catalog = &FILE[FILE.find("--- # the").unwrap()..];
        assert_eq!(text(&left[0]), catalog);
        let catalog = SourceName::parse("catalog").unwrap();
        assert_eq!(without_source(&left, &catalog), []);
        assert_eq!(without_source(&left, &orders), left);
    }
}
