//! TOML as a tree in which every key and value knows its place, whatever source it came from.
//!
//! Owns the conversion from the `toml` crate's spanned values, TOML syntax errors, the place of a text inside its
//! quotes, and insertion of a value under a dotted path. Must not know which keys a spec or an architecture has, nor
//! the codes of their errors: callers pass the code under which their stage reports a syntax error.

use std::fmt;

use toml::de::{DeTable, DeValue};

use crate::diagnostics::{Diagnostic, Diagnostics, SourceId, Sources, Span};

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) value: Tree,
    /// As written, with quotes and brackets.
    pub(crate) span: Span,
}

/// A TOML value.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    /// A string and the bytes of its text, without quotes; for one with escapes they lie in a source of its own,
    /// because positions inside the text would otherwise not agree with the file.
    Text(String, Span),
    Integer(i64),
    /// A whole number that 64 bits cannot hold, as written.
    HugeInteger(String),
    /// May be infinite or not a number.
    Float(f64),
    Boolean(bool),
    Datetime(String),
    List(Vec<Node>),
    Table(Table),
}

/// The entries of a table in the order written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table(pub(crate) Vec<Entry>);

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Quotes taken off.
    pub(crate) key: String,
    /// As written, with quotes if it has them.
    pub(crate) key_span: Span,
    /// The bytes of the key's text, as those of [`Tree::Text`].
    pub(crate) key_text: Span,
    pub(crate) node: Node,
}

impl Entry {
    /// Key and value; the key alone if they were written in different sources.
    pub(crate) fn span(&self) -> Span {
        match self.node.span.source == self.key_span.source {
            true => self.key_span.to(self.node.span),
            false => self.key_span,
        }
    }
}

impl Node {
    /// What it is, with an article, for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        self.value.type_name()
    }
}

impl Tree {
    /// What it is, with an article, for messages.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Tree::Text(..) => "a text",
            Tree::Integer(_) => "an integer",
            Tree::HugeInteger(_) => "an integer of more than 64 bits",
            Tree::Float(_) => "a number with a fraction",
            Tree::Boolean(_) => "a truth value",
            Tree::Datetime(_) => "a date or time",
            Tree::List(_) => "a list",
            Tree::Table(_) => "a table",
        }
    }
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    /// Puts `value` under `path`, bare keys with their places, creating tables on the way and replacing what was
    /// there.
    ///
    /// # Errors
    ///
    /// The span of the key on the way that is not a table.
    pub(crate) fn insert(&mut self, path: &[(String, Span)], value: Node) -> Result<(), Span> {
        let Some(((key, key_span), rest)) = path.split_first() else { return Ok(()) };
        let at = self.0.iter().position(|entry| entry.key == *key);
        if rest.is_empty() {
            let entry =
                Entry { key: key.clone(), key_span: *key_span, key_text: *key_span, node: value };
            match at {
                Some(at) => self.0[at] = entry,
                None => self.0.push(entry),
            }
            return Ok(());
        }
        let at = at.unwrap_or_else(|| {
            let node = Node { value: Tree::Table(Table::default()), span: *key_span };
            self.0.push(Entry { key: key.clone(), key_span: *key_span, key_text: *key_span, node });
            self.0.len() - 1
        });
        match &mut self.0[at].node.value {
            Tree::Table(table) => table.insert(rest, value),
            _ => Err(*key_span),
        }
    }
}

/// Parses a whole TOML document.
///
/// # Errors
///
/// Every syntax error under `code`, at most one a line, because one mistake often makes the rest of its line unreadable.
pub(crate) fn parse(
    source: SourceId,
    code: &'static str,
    sources: &mut Sources,
) -> Result<Table, Diagnostics> {
    let text = std::sync::Arc::clone(&sources.get(source).text);
    let (table, errors) = DeTable::parse_recoverable(&text);
    if errors.is_empty() {
        return Ok(Converter { source, shift: 0, sources }.table(table.get_ref()));
    }
    let help = "write `key = value` lines under `[section]` headers; texts stand in quotes";
    let fault = |error| {
        let diagnostic = syntax_error(error, code, source, 0, &text);
        let at = diagnostic.labels.first().map_or(0, |label| label.span.start as usize);
        let found = diagnostic.labels.first().map_or("", |label| label.text.as_str());
        let help = match found {
            _ if found.contains("duplicate key") => {
                "keep one of them: a key or section stands once"
            }
            _ if found.contains("must be quoted") => {
                "put a text in quotes; write true or false small"
            }
            _ => help,
        };
        diagnostic.help(foreign_letter(&text, at).unwrap_or_else(|| help.to_owned()))
    };
    let mut found: Vec<_> = errors.iter().map(fault).collect();
    let line =
        |diagnostic: &Diagnostic| diagnostic.labels.first().map(|label| line_of(&text, label.span));
    found.sort_by_key(line);
    found.dedup_by_key(|diagnostic| line(diagnostic));
    let mut diagnostics = Diagnostics::default();
    for diagnostic in found {
        diagnostics.push(diagnostic);
    }
    Err(diagnostics)
}

/// The line a span starts in, counted from 0.
fn line_of(text: &str, span: Span) -> usize {
    text.as_bytes()[..span.start as usize].iter().filter(|&&byte| byte == b'\n').count()
}

/// Parses one TOML value that stands at byte `offset` of a source and reaches to its end.
///
/// # Errors
///
/// The first syntax error, under `code`.
pub(crate) fn parse_value(
    source: SourceId,
    offset: usize,
    code: &'static str,
    sources: &mut Sources,
) -> Result<Node, Diagnostic> {
    let text = std::sync::Arc::clone(&sources.get(source).text);
    let value = DeValue::parse(&text[offset..]).map_err(|error| {
        syntax_error(&error, code, source, offset, &text)
            .help("complete the value: every quote and bracket must be closed")
    })?;
    Ok(Converter { source, shift: offset, sources }.node(value.get_ref(), value.span()))
}

/// The help for an error at a letter that TOML takes in texts and comments only, such as a quote that a word processor
/// has bent or a Greek letter that looks like a Latin one.
fn foreign_letter(text: &str, at: usize) -> Option<String> {
    let start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next()?;
    let bare = line.find(['"', '\'', '#']).map_or(line, |end| &line[..end]);
    let letter = bare.chars().find(|c| !c.is_ascii())?;
    let code = u32::from(letter);
    Some(match letter {
        '“' | '”' | '„' | '‘' | '’' | '«' | '»' => {
            format!("write a straight quote, \" or ', in place of `{letter}` (U+{code:04X})")
        }
        letter if letter.is_whitespace() || letter == '\u{feff}' => {
            format!("write a plain space in place of the character U+{code:04X}")
        }
        letter => format!(
            "write a plain letter in place of `{letter}` (U+{code:04X}), which only looks like one, or put the text in quotes"
        ),
    })
}

/// A syntax error of the `toml` crate as a diagnostic.
fn syntax_error(
    error: &toml::de::Error,
    code: &'static str,
    source: SourceId,
    shift: usize,
    text: &str,
) -> Diagnostic {
    let found = error.span().unwrap_or_default();
    let (mut start, mut end) =
        ((found.start + shift).min(text.len()), (found.end + shift).min(text.len()));
    let last = text.trim_end().char_indices().next_back();
    if let Some((at, character)) = last.filter(|(at, _)| start > *at) {
        // Nothing stands where the text ends too early: the error points at the last character before.
        (start, end) = (at, at + character.len_utf8());
    }
    Diagnostic::error(code, "this is not TOML")
        .at(Span::new(source, start..end.max(start)), error.message())
}

/// Turns the `toml` crate's values into nodes of one source.
struct Converter<'s> {
    source: SourceId,
    /// Where the parsed text starts in the source.
    shift: usize,
    sources: &'s mut Sources,
}

impl Converter<'_> {
    fn span(&self, range: std::ops::Range<usize>) -> Span {
        Span::new(self.source, range.start + self.shift..range.end + self.shift)
    }

    fn table(&mut self, table: &DeTable<'_>) -> Table {
        let mut entries: Vec<Entry> = Vec::new();
        for (key, value) in table {
            let key_span = self.span(key.span());
            let node = self.node(value.get_ref(), value.span());
            let key = key.get_ref().clone().into_owned();
            entries.push(Entry { key_text: self.text_span(&key, key_span), key, key_span, node });
        }
        // The crate orders keys by name; the order of the text decides between rules and for messages.
        entries.sort_by_key(|entry| entry.key_span);
        Table(entries)
    }

    fn node(&mut self, value: &DeValue<'_>, range: std::ops::Range<usize>) -> Node {
        let span = self.span(range);
        let value = match value {
            DeValue::String(text) => {
                Tree::Text(text.clone().into_owned(), self.text_span(text, span))
            }
            DeValue::Integer(integer) => {
                match i64::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(number) => Tree::Integer(number),
                    Err(_) => Tree::HugeInteger(self.sources.slice(span).to_owned()),
                }
            }
            // The crate has checked the digits; what Rust does not take would be a number that is not one.
            DeValue::Float(float) => Tree::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Tree::Boolean(*flag),
            DeValue::Datetime(moment) => Tree::Datetime(moment.to_string()),
            DeValue::Array(values) => Tree::List(
                values.iter().map(|value| self.node(value.get_ref(), value.span())).collect(),
            ),
            DeValue::Table(table) => Tree::Table(self.table(table)),
        };
        Node { value, span }
    }

    /// The bytes of a string's text, without quotes.
    fn text_span(&mut self, text: &str, span: Span) -> Span {
        let written = self.sources.slice(span);
        let quotes =
            ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quotes| written.starts_with(quotes));
        let quotes = quotes.map_or(0, str::len);
        let inner = written.get(quotes..written.len().saturating_sub(quotes)).unwrap_or_default();
        // A line break right after three quotes does not belong to the text.
        let trimmed = if quotes == 3 {
            inner.strip_prefix("\r\n").or_else(|| inner.strip_prefix('\n')).unwrap_or(inner)
        } else {
            inner
        };
        if trimmed == text {
            let start = span.start as usize + quotes + (inner.len() - trimmed.len());
            return Span::new(span.source, start..start + text.len());
        }
        let source = self.sources.add(format!("text at {}", self.sources.place(span)), text);
        Span::new(source, 0..text.len())
    }
}

impl Tree {
    /// As JSON; numbers that JSON does not have become texts, as dates do.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Tree::Text(text, _) | Tree::HugeInteger(text) | Tree::Datetime(text) => {
                text.as_str().into()
            }
            Tree::Integer(number) => (*number).into(),
            Tree::Float(number) if number.is_finite() => (*number).into(),
            Tree::Float(number) => number.to_string().into(),
            Tree::Boolean(flag) => (*flag).into(),
            Tree::List(nodes) => nodes.iter().map(|node| node.value.to_json()).collect(),
            Tree::Table(table) => {
                let entry = |entry: &Entry| (entry.key.clone(), entry.node.value.to_json());
                serde_json::Value::Object(table.0.iter().map(entry).collect())
            }
        }
    }
}

impl fmt::Display for Tree {
    /// As TOML, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tree::Text(text, _) => write!(f, "{}", toml::Value::String(text.clone())),
            Tree::Integer(number) => write!(f, "{number}"),
            Tree::HugeInteger(text) | Tree::Datetime(text) => f.write_str(text),
            // Debug writes 1e-8 where Display writes 0.00000001; only numbers that are not finite differ from TOML.
            Tree::Float(number) if number.is_finite() => write!(f, "{number:?}"),
            Tree::Float(number) => write!(f, "{}", toml::Value::Float(*number)),
            Tree::Boolean(flag) => write!(f, "{flag}"),
            Tree::List(nodes) => {
                f.write_str("[")?;
                for (index, node) in nodes.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { ", " }, node.value)?;
                }
                f.write_str("]")
            }
            Tree::Table(table) => {
                f.write_str("{ ")?;
                for (index, entry) in table.0.iter().enumerate() {
                    let key = toml::Value::String(entry.key.clone());
                    write!(
                        f,
                        "{}{key} = {}",
                        if index == 0 { "" } else { ", " },
                        entry.node.value
                    )?;
                }
                f.write_str(" }")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "test::syntax";

    fn parsed(text: &str) -> (Table, Sources) {
        let mut sources = Sources::default();
        let source = sources.add("file.toml", text);
        let table = parse(source, CODE, &mut sources).expect(text);
        (table, sources)
    }

    #[test]
    fn spans_of_texts_hold_the_text_however_it_is_quoted() {
        for (value, escaped) in [
            (r#""a b""#, false),
            ("'a b'", false),
            (r#""a\u0020\tb""#, true),
            (r#""""#, false),
            ("''", false),
            ("'é'", false),
            ("'''a b'''", false),
            ("'''\na\nb'''", false),
            (r#""""a b""""#, false),
            ("\"\"\"\na\\\n  b\"\"\"", true),
            ("''''''", false),
        ] {
            let (table, sources) = parsed(&format!("# é\nkey = {value}\n"));
            let node = &table.get("key").expect("the key").node;
            let Tree::Text(text, span) = &node.value else { panic!("{value} is a text") };
            assert_eq!(sources.slice(*span), text, "{value}");
            assert_eq!(sources.slice(node.span), value);
            assert_eq!(span.source != node.span.source, escaped, "{value} has its own source");
        }
    }

    #[test]
    fn windows_line_ends_keep_texts_in_their_file() {
        let (table, sources) = parsed("key = '''\r\na\r\nb'''\r\nother = 1\r\n");
        let Tree::Text(text, span) = &table.0[0].node.value else { panic!("a text") };
        assert_eq!(sources.slice(*span), text);
        assert_eq!(span.source, table.0[0].key_span.source);
        assert_eq!(table.0[1].key, "other");
    }

    #[test]
    fn keys_know_their_text_and_the_order_written() {
        let (table, sources) =
            parsed("z = 1\n\"a.*\" = 2\n'b' = 3\n\"c\\td\" = 4\n[s.t]\nkey = 5\n");
        let keys: Vec<_> = table.0.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["z", "a.*", "b", "c\td", "s"]);
        for entry in &table.0 {
            assert_eq!(sources.slice(entry.key_text), entry.key);
        }
        assert_eq!(sources.slice(table.0[1].span()), "\"a.*\" = 2");
    }

    #[test]
    fn syntax_errors_are_one_a_line_in_order_and_lie_in_the_text() {
        for text in [
            "a = = 1\nb = [1,\n",
            "a = \"x",
            "a",
            "é = ",
            "[a\n[b\nc = 1 2\n",
            "a = '''é",
            "a = 1\na = 2\nb = 'é\nc = é\n",
        ] {
            let mut sources = Sources::default();
            let source = sources.add("file.toml", text);
            let errors = parse(source, CODE, &mut sources).expect_err(text);
            let spans: Vec<Span> = errors.iter().map(|error| error.labels[0].span).collect();
            assert!(!spans.is_empty() && errors.iter().all(|error| error.code == CODE));
            assert!(spans.windows(2).all(|pair| line_of(text, pair[0]) < line_of(text, pair[1])));
            for span in spans {
                assert!(text.get(span.start as usize..span.end as usize).is_some(), "{text}");
            }
        }
    }

    #[test]
    fn depth_is_an_error_not_the_end_of_the_stack() {
        let (opened, dotted) = ("[".repeat(100_000), "a.".repeat(100_000));
        for text in [format!("a = {opened}"), format!("{dotted}a = 1"), format!("[{dotted}a]")] {
            let mut sources = Sources::default();
            let source = sources.add("file.toml", text);
            assert!(parse(source, CODE, &mut sources).is_err());
        }
    }

    #[test]
    fn a_value_in_the_middle_of_a_source_keeps_its_place() {
        let mut sources = Sources::default();
        let source = sources.add("argument", "a.b=[1, 'x']");
        let node = parse_value(source, 4, CODE, &mut sources).expect("a list");
        assert_eq!(sources.slice(node.span), "[1, 'x']");
        let Tree::List(nodes) = &node.value else { panic!("a list") };
        assert_eq!(sources.slice(nodes[1].span), "'x'");
        assert_eq!(parse_value(source, 5, CODE, &mut sources).expect_err("no value").code, CODE);
    }

    #[test]
    fn insertion_creates_replaces_and_refuses() {
        let (mut table, _) = parsed("a = 1\n[s]\nb = 2\n");
        let span = Span::new(SourceId(0), 0..1);
        let path =
            |keys: &[&str]| keys.iter().map(|key| ((*key).to_owned(), span)).collect::<Vec<_>>();
        let node = || Node { value: Tree::Integer(7), span };
        assert_eq!(table.insert(&path(&["s", "b"]), node()), Ok(()));
        assert_eq!(table.insert(&path(&["new", "c"]), node()), Ok(()));
        assert_eq!(table.insert(&path(&["a", "d"]), node()), Err(span));
        let written = Tree::Table(table).to_string();
        assert_eq!(written, r#"{ "a" = 1, "s" = { "b" = 7 }, "new" = { "c" = 7 } }"#);
    }
}
