//! Reads a parsed TOML document with errors that name file, line and key, what was found and what was expected.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ManifestError;
use super::units;

/// The text of a manifest, and its file.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    pub file: &'a Path,
    pub text: &'a str,
}

impl<'a> Document<'a> {
    /// The document's top table.
    pub fn parse(self) -> Result<Table<'a>, ManifestError> {
        let parsed = DeTable::parse(self.text).map_err(|error| ManifestError::Syntax {
            file: self.file.to_owned(),
            line: self.line(&error.span().unwrap_or_default()),
            message: error.message().to_owned(),
        })?;
        let span = parsed.span();
        Ok(Table {
            document: self,
            key: String::new(),
            span,
            entries: parsed.into_inner(),
        })
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start);
        1 + before.map_or(0, |text| text.iter().filter(|byte| **byte == b'\n').count())
    }
}

/// A table and its dotted key, which is empty at the top.
pub(super) struct Table<'a> {
    document: Document<'a>,
    key: String,
    span: Range<usize>,
    entries: DeTable<'a>,
}

impl<'a> Table<'a> {
    /// Refuses unknown keys.
    pub fn allow(&self, known: &[&str]) -> Result<(), ManifestError> {
        let unknown = self
            .entries
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else { return Ok(()) };
        let mut problem = String::from("unknown key");
        if let Some(nearest) = nearest(key.get_ref(), known) {
            problem.push_str(&format!(", did you mean `{nearest}`?"));
        }
        problem.push_str(&format!(" (known here: {})", known.join(", ")));
        Err(self.error_at(&key.span(), key.get_ref(), problem))
    }

    /// The field with that name, if it exists.
    pub fn take(&mut self, name: &str) -> Option<Field<'a>> {
        let (key, value) = self.entries.remove_entry(name)?;
        Some(self.field(&key, value))
    }

    /// The field with that name, or an error with its purpose.
    pub fn require(&mut self, name: &str, purpose: &str) -> Result<Field<'a>, ManifestError> {
        match self.take(name) {
            Some(field) => Ok(field),
            None => Err(self.error_at(&self.span.clone(), name, format!("missing: {purpose}"))),
        }
    }

    /// All fields, ordered by name.
    pub fn into_fields(mut self) -> Vec<(String, Field<'a>)> {
        std::mem::take(&mut self.entries)
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), self.field(&key, value)))
            .collect()
    }

    fn field(
        &self,
        key: &Spanned<std::borrow::Cow<'a, str>>,
        value: Spanned<DeValue<'a>>,
    ) -> Field<'a> {
        Field {
            document: self.document,
            key: self.dotted(key.get_ref()),
            span: key.span(),
            value: value.into_inner(),
        }
    }

    fn dotted(&self, name: &str) -> String {
        let plain = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let name = if plain && !name.is_empty() {
            name.to_owned()
        } else {
            shown(name)
        };
        if self.key.is_empty() {
            name
        } else {
            format!("{}.{name}", self.key)
        }
    }

    fn error_at(&self, span: &Range<usize>, name: &str, problem: String) -> ManifestError {
        ManifestError::Key {
            file: self.document.file.to_owned(),
            line: self.document.line(span),
            key: self.dotted(name),
            problem,
        }
    }
}

/// A value with its dotted key and its position.
pub(super) struct Field<'a> {
    document: Document<'a>,
    key: String,
    span: Range<usize>,
    value: DeValue<'a>,
}

impl<'a> Field<'a> {
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The line of the key.
    pub fn line(&self) -> usize {
        self.document.line(&self.span)
    }

    /// An error at this place.
    pub fn error(&self, problem: impl Into<String>) -> ManifestError {
        ManifestError::Key {
            file: self.document.file.to_owned(),
            line: self.line(),
            key: self.key.clone(),
            problem: problem.into(),
        }
    }

    fn found(&self, found: impl Display, wanted: impl Display) -> ManifestError {
        self.error(format!("found {found}, wanted {wanted}"))
    }

    fn wrong_type(&self, wanted: impl Display) -> ManifestError {
        self.found(
            format_args!("a value of type {}", self.value.type_str()),
            wanted,
        )
    }

    pub fn text(&self) -> Result<&str, ManifestError> {
        self.value
            .as_str()
            .ok_or_else(|| self.wrong_type("text in quotes"))
    }

    pub fn truth(&self) -> Result<bool, ManifestError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong_type("true or false"))
    }

    /// Text that passes a check.
    pub fn checked(
        &self,
        check: fn(&str) -> Result<(), &'static str>,
    ) -> Result<String, ManifestError> {
        let text = self.text()?;
        check(text).map_err(|wanted| self.found(shown(text), wanted))?;
        Ok(text.to_owned())
    }

    /// One of the words of a list.
    pub fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ManifestError> {
        let text = self.text()?;
        let chosen = choices.iter().find(|(word, _)| *word == text);
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.found(shown(text), format_args!("one of {}", words.join(", ")))
        })
    }

    /// A whole number in a range.
    pub fn integer(&self, range: RangeInclusive<u32>) -> Result<u32, ManifestError> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let integer = self
            .value
            .as_integer()
            .ok_or_else(|| self.wrong_type(&wanted))?;
        i64::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| self.found(integer, &wanted))
    }

    /// A size in a range of bytes.
    pub fn size_bytes(&self, range: RangeInclusive<u64>) -> Result<u64, ManifestError> {
        self.quantity(
            units::SIZE_WANTED,
            units::parse_size_bytes,
            units::format_size_bytes,
            range,
        )
    }

    /// A duration in a range of milliseconds.
    pub fn duration_ms(&self, range: RangeInclusive<u64>) -> Result<u64, ManifestError> {
        self.quantity(
            units::DURATION_WANTED,
            units::parse_duration_ms,
            units::format_duration_ms,
            range,
        )
    }

    fn quantity(
        &self,
        wanted: &str,
        parse: fn(&str) -> Option<u64>,
        format: fn(u64) -> String,
        range: RangeInclusive<u64>,
    ) -> Result<u64, ManifestError> {
        let text = self.value.as_str().ok_or_else(|| self.wrong_type(wanted))?;
        let number = parse(text).ok_or_else(|| self.found(shown(text), wanted))?;
        if range.contains(&number) {
            return Ok(number);
        }
        let (least, most) = (format(*range.start()), format(*range.end()));
        Err(self.found(shown(text), format_args!("{least} to {most}")))
    }

    pub fn into_table(self) -> Result<Table<'a>, ManifestError> {
        match self.value {
            DeValue::Table(entries) => Ok(Table {
                document: self.document,
                key: self.key,
                span: self.span,
                entries,
            }),
            _ => Err(self.wrong_type("a table")),
        }
    }

    /// A list of at most `limit` values; each keeps the list's key and has its own line.
    pub fn list(&self, limit: usize) -> Result<Vec<Self>, ManifestError> {
        let values = self
            .value
            .as_array()
            .ok_or_else(|| self.wrong_type("a list in [ ]"))?;
        if values.len() > limit {
            let found = format!("{} values", values.len());
            return Err(self.found(found, format_args!("at most {limit}")));
        }
        let field = |value: &Spanned<DeValue<'a>>| Field {
            document: self.document,
            key: self.key.clone(),
            span: value.span(),
            value: value.get_ref().clone(),
        };
        Ok(values.iter().map(field).collect())
    }
}

/// Text in quotes, shortened to keep messages on one line.
fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// The known key with an edit distance of at most two.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    if key.len() > 64 {
        return None;
    }
    known
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 2 && *distance < candidate.len())
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(&b) {
            left = (diagonal + usize::from(from != *to))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = std::mem::replace(cell, left);
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}
