//! The placement document within files: found as it is written, comments and all, and put back.

use crate::rules::{DocumentFile, parse};

/// The text of the placement document, as written.
pub fn placement_text(files: &[DocumentFile]) -> Option<Vec<u8>> {
    files.iter().find_map(|file| {
        documents_of(&file.text)
            .into_iter()
            .find(|text| is_placement(text))
            .map(<[u8]>::to_vec)
    })
}

/// The file with its placement document replaced by `live`; `None` when it holds none, or one that says the same.
pub fn with_live_placement(file: &DocumentFile, live: &[u8]) -> Option<DocumentFile> {
    let documents = documents_of(&file.text);
    let at = documents.iter().position(|text| is_placement(text))?;
    if say_the_same(documents[at], live) {
        return None;
    }
    let mut text = Vec::with_capacity(file.text.len() + live.len());
    for (n, document) in documents.iter().enumerate() {
        if n != at {
            text.extend_from_slice(document);
            continue;
        }
        if n > 0 && !live.starts_with(b"---") {
            text.extend_from_slice(b"---\n");
        }
        text.extend_from_slice(live);
        if !live.ends_with(b"\n") {
            text.push(b'\n');
        }
    }
    Some(DocumentFile {
        name: file.name.clone(),
        text,
    })
}

/// Whether two placements give the same to the same units, however they are written.
pub(super) fn say_the_same(one: &[u8], other: &[u8]) -> bool {
    let placement = |text: &[u8]| parse(&[unnamed(text)]).0.placement;
    one == other || placement(one) == placement(other)
}

fn unnamed(text: &[u8]) -> DocumentFile {
    DocumentFile {
        name: "placement".to_owned(),
        text: text.to_vec(),
    }
}

fn is_placement(text: &[u8]) -> bool {
    parse(&[unnamed(text)]).0.placement.is_some()
}

/// A file cut before every line that begins with `---`: in YAML, such a line is never part of a document.
fn documents_of(text: &[u8]) -> Vec<&[u8]> {
    let mut documents = Vec::new();
    let (mut begin, mut line) = (0, 0);
    while line < text.len() {
        if text[line..].starts_with(b"---") && line > begin {
            documents.push(&text[begin..line]);
            begin = line;
        }
        line = match text[line..].iter().position(|byte| *byte == b'\n') {
            Some(end) => line + end + 1,
            None => text.len(),
        };
    }
    documents.push(&text[begin..]);
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "# the world\nkind: rule\nname: a\n---\n# who owns what\nkind: placement\nslots: 2\nranges:\n  - \
                       {slots: 0-1, unit: a}\n";

    fn file(text: &str) -> DocumentFile {
        DocumentFile {
            name: "all.yaml".to_owned(),
            text: text.into(),
        }
    }

    #[test]
    fn the_placement_is_found_among_others_with_its_comments() {
        let text = placement_text(&[file(TWO)]).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains("# who owns what") && !text.contains("the world"),
            "{text}"
        );
    }

    #[test]
    fn the_live_placement_replaces_another_and_leaves_the_rest() {
        let live = b"kind: placement\nslots: 2\nranges:\n  - {slots: 0-1, unit: b}\n";
        let changed = with_live_placement(&file(TWO), live).unwrap();
        let text = String::from_utf8(changed.text).unwrap();
        assert!(
            text.starts_with("# the world") && text.contains("unit: b"),
            "{text}"
        );
        assert!(!text.contains("unit: a"), "{text}");
        assert_eq!(text.matches("---\n").count(), 1, "{text}");
    }

    #[test]
    fn a_placement_that_says_the_same_stays_as_it_is_written() {
        let live =
            br#"{"kind": "placement", "slots": 2, "ranges": [{"slots": "0-1", "unit": "a"}]}"#;
        assert!(with_live_placement(&file(TWO), live).is_none());
    }
}
