//! A fault as a person reads it: what is wrong, the lines around it, and the mend.

use crate::rules::{DocumentFile, Fault};
use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, Severity,
    SourceCode,
};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// An excerpt of longer lines would be no help; the place is named instead.
const LINE_BYTES_MAX: usize = 400;
/// How wide a message may be before it is broken.
const WIDTH: usize = 120;

/// The files that faults are shown in.
pub(super) struct Excerpts<'a> {
    folder: &'a Path,
    files: HashMap<&'a str, &'a [u8]>,
    sources: HashMap<String, NamedSource<Arc<str>>>,
}

/// One fault, as the crate that draws it wants it.
#[derive(Debug)]
struct Shown {
    message: String,
    mend: String,
    severity: Severity,
    /// Where, in bytes.
    at: Option<(NamedSource<Arc<str>>, LabeledSpan)>,
}

impl<'a> Excerpts<'a> {
    pub(super) fn of(folder: &'a Path, files: &'a [DocumentFile]) -> Self {
        let files = files.iter();
        Self {
            folder,
            files: files
                .map(|file| (file.name.as_str(), file.text.as_slice()))
                .collect(),
            sources: HashMap::new(),
        }
    }

    /// What is wrong, where, and how to mend it: some lines of text, colored.
    pub(super) fn show(&mut self, severity: Severity, fault: &Fault) -> String {
        let at = self.source(&fault.file).and_then(|source| {
            let span = span(source.inner(), fault)?;
            Some((source, LabeledSpan::underline(span)))
        });
        let message = match &at {
            Some(_) => fault.message.clone(),
            None => format!("{}: {}", self.place(fault), fault.message),
        };
        let shown = Shown {
            message,
            mend: fault.mend.clone(),
            severity,
            at,
        };
        let mut text = String::new();
        let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode())
            .with_width(WIDTH)
            .with_links(false);
        // It fails where its text can't be written, and a String takes all.
        if handler.render_report(&mut text, &shown).is_err() {
            return fault.to_string();
        }
        format!("{}\n", text.trim_end())
    }

    /// What isn't in the folder, as the live placement or all files together, is named as it is.
    fn file(&self, name: &str) -> String {
        let path = self.folder.join(name);
        if path.is_file() {
            path.display().to_string()
        } else {
            name.to_owned()
        }
    }

    fn place(&self, fault: &Fault) -> String {
        let file = self.file(&fault.file);
        match fault.line {
            0 => file,
            line => format!("{file}:{line}:{}", fault.column),
        }
    }

    fn source(&mut self, name: &str) -> Option<NamedSource<Arc<str>>> {
        if let Some(source) = self.sources.get(name) {
            return Some(source.clone());
        }
        let text = std::str::from_utf8(self.files.get(name)?).ok()?;
        let source = NamedSource::new(self.file(name), Arc::from(text));
        self.sources.insert(name.to_owned(), source.clone());
        Some(source)
    }
}

/// The word that a fault is about, in bytes: from its place to the next blank or bracket.
fn span(text: &str, fault: &Fault) -> Option<std::ops::Range<usize>> {
    let before = usize::try_from(fault.line.checked_sub(1)?).ok()?;
    let line = text.split_inclusive('\n').nth(before)?;
    if line.len() > LINE_BYTES_MAX {
        return None;
    }
    let start: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    let column = usize::try_from(fault.column.checked_sub(1)?).ok()?;
    let (offset, _) = line.char_indices().nth(column)?;
    let rest = line.get(offset..)?;
    let word = rest
        .find(|one: char| one.is_whitespace() || "{}[],".contains(one))
        .unwrap_or(rest.len());
    let first = rest.chars().next().map_or(1, char::len_utf8);
    let begin = start + offset;
    Some(begin..begin + word.max(first))
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'b>(&'b self) -> Option<Box<dyn fmt::Display + 'b>> {
        Some(Box::new(&self.mend))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.at
            .as_ref()
            .map(|(source, _)| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (_, label) = self.at.as_ref()?;
        Some(Box::new(std::iter::once(label.clone())))
    }
}
