//! Whole pictures of fixed logs.

use std::fmt::Write;

use super::*;

/// A log of `updates` updates whose loss falls, with a spike, a loss that is not finite and four evaluations.
fn log(updates: u64, offset: f64) -> RunLog {
    let mut text = String::new();
    for step in 1..=updates {
        let share = step as f64 / updates as f64;
        let wiggle = f64::from((step * 7 % 5) as u32) / 50.0;
        let spike = if step == updates / 2 { 2.0 } else { 0.0 };
        let loss = offset + 4.0 / (1.0 + 9.0 * share) + wiggle + spike;
        let loss = if step == updates / 2 + 3 { "null".to_owned() } else { format!("{loss:.4}") };
        let rate = 0.006 * (1.0 - share);
        let norm = 0.5 + wiggle + spike;
        let _ = writeln!(
            text,
            "{{\"kind\":\"train\",\"step\":{step},\"loss\":{loss},\"learning_rate\":{rate:.6},\
             \"grad_norm\":{norm:.3},\"tokens\":{},\"tokens_per_second\":{}}}",
            step * 1024,
            20_000 + step % 3 * 500
        );
        if step.is_multiple_of(updates / 4) {
            let loss = offset + 0.2 + 4.0 / (1.0 + 9.0 * share);
            let _ = writeln!(
                text,
                "{{\"kind\":\"evaluation\",\"step\":{step},\"loss\":{loss:.4},\"tokens\":{}}}",
                step * 1024
            );
        }
    }
    RunLog::parse(text.as_bytes())
}

fn run(name: &str, group: &str, log: RunLog) -> Run {
    let flops_per_step = Some(8_000_000_000);
    Run { name: name.to_owned(), group: group.to_owned(), log, flops_per_step }
}

fn titled(x: XAxis) -> Options {
    Options { title: "a <title> & more".to_owned(), x, ..Options::default() }
}

/// Elements that were opened and not closed, or an error: enough of an XML reader for pictures without entities of their
/// own.
fn check_xml(text: &str) -> Result<usize, String> {
    let mut open: Vec<&str> = Vec::new();
    let mut count = 0;
    let mut rest = text;
    while let Some(begin) = rest.find('<') {
        check_text(&rest[..begin], open.last() == Some(&"style"))?;
        let tag = &rest[begin..];
        let (end, skip) = match tag {
            t if t.starts_with("<?") => (t.find("?>").map(|i| i + 2), true),
            t if t.starts_with("<!--") => (t.find("-->").map(|i| i + 3), true),
            t => (t.find('>').map(|i| i + 1), false),
        };
        let end = end.ok_or("a tag without an end")?;
        let inside = &tag[1..end - 1];
        rest = &tag[end..];
        if skip {
            continue;
        }
        if let Some(name) = inside.strip_prefix('/') {
            let last = open.pop().ok_or_else(|| format!("{name} was not opened"))?;
            if last != name {
                return Err(format!("{name} closes {last}"));
            }
            continue;
        }
        count += 1;
        let is_empty = inside.ends_with('/');
        let inside = inside.trim_end_matches('/');
        let (name, attributes) = inside.split_once(' ').unwrap_or((inside, ""));
        check_attributes(attributes)?;
        if !is_empty {
            open.push(name);
        }
    }
    check_text(rest, false)?;
    if open.is_empty() { Ok(count) } else { Err(format!("still open: {open:?}")) }
}

fn check_attributes(mut text: &str) -> Result<(), String> {
    let mut names: Vec<&str> = Vec::new();
    while !text.trim().is_empty() {
        let (name, rest) = text.split_once("=\"").ok_or_else(|| format!("attribute: {text}"))?;
        let (value, rest) = rest.split_once('"').ok_or_else(|| format!("value: {rest}"))?;
        check_text(value, false)?;
        let name = name.trim();
        if names.contains(&name) || name.contains(char::is_whitespace) {
            return Err(format!("attribute {name}"));
        }
        names.push(name);
        text = rest;
    }
    Ok(())
}

fn check_text(text: &str, is_style: bool) -> Result<(), String> {
    for (at, _) in text.match_indices('&') {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|e| text[at..].starts_with(e));
        if !known || is_style {
            return Err(format!("entity in {text}"));
        }
    }
    match text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        Some(c) => Err(format!("control character {c:?}")),
        None => Ok(()),
    }
}

/// What a picture looks like is compared as text: a change of it has to be looked at.
#[test]
fn one_run_by_steps() {
    let picture = svg(&[run("wide-1", "wide-1", log(24, 3.0))], &titled(XAxis::Steps));
    assert!(check_xml(&picture).unwrap() > 50);
    insta::assert_snapshot!(picture);
}

#[test]
fn two_groups_by_compute_on_logarithmic_axes() {
    let runs = [
        run("cola, seed 1", "cola", log(16, 3.0)),
        run("cola, seed 2", "cola", log(16, 3.1)),
        run("full-rank, seed 1", "full-rank", log(12, 2.9)),
    ];
    let options = Options { log_x: true, log_y: true, ..titled(XAxis::Flops) };
    let picture = svg(&runs, &options);
    check_xml(&picture).unwrap();
    insta::assert_snapshot!(picture);
}

/// Names come from the command line and may hold anything.
#[test]
fn names_cannot_break_a_picture() {
    let name = "</style>\"&<script>alert(1)</script>\u{1}\u{fffe}\n{{data}}";
    let runs = [run(name, name, log(8, 3.0)), run("b", "b", log(8, 3.0))];
    let options = Options { title: name.to_owned(), ..Options::default() };
    check_xml(&svg(&runs, &options)).unwrap();
    let page = page(&runs, &options);
    assert_eq!(page.matches("<script").count(), 2, "only the page's own scripts");
    assert_eq!(page.matches("</script").count(), 2);
    assert_eq!(embedded(&page)["runs"][0]["name"], name);
}

/// The data of a page, as its script reads it.
fn embedded(page: &str) -> serde_json::Value {
    let begin = "<script type=\"application/json\" id=\"data\">";
    let (_, rest) = page.split_once(begin).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_page_holds_every_update_and_needs_nothing_else() {
    let runs = [run("wide-1", "wide-1", log(5_000, 3.0)), run("b", "b", RunLog::default())];
    let page = page(&runs, &Options { smoothing: Some(7.0), ..titled(XAxis::Tokens) });
    let data = embedded(&page);
    assert_eq!((&data["x"], &data["span"]), (&"tokens".into(), &7.0.into()));
    let first = &data["runs"][0];
    for column in ["steps", "tokens", "seconds", "loss", "learning_rate", "gradient_norm"] {
        assert_eq!(first[column].as_array().unwrap().len(), 5_000, "{column}");
    }
    assert_eq!(first["tokens"][4_999], 5_000 * 1024);
    assert_eq!(first["loss"][2_502], serde_json::Value::Null);
    let loss = runs[0].log.updates[41].loss.unwrap();
    assert!((first["loss"][41].as_f64().unwrap() - loss).abs() < 1e-5 * loss);
    assert_eq!(first["evaluation_steps"], serde_json::json!([1250, 2500, 3750, 5000]));
    assert_eq!(first["flops_per_step"], 8_000_000_000_u64);
    assert_eq!(data["runs"][1]["loss"], serde_json::json!([]));
    for remote in ["src=", "href=", "@import", "url(", "fetch("] {
        assert!(!page.contains(remote), "{remote}");
    }
    assert!(page.contains("<title>a &lt;title&gt; &amp; more</title>"));
    // Readers without scripts see the picture.
    let (_, still) = page.split_once("<noscript>").unwrap();
    check_xml(still.split_once("</noscript>").unwrap().0).unwrap();
}

/// A long run stays a small picture, and its one spike is seen.
#[test]
fn long_runs_are_thinned() {
    let long = log(60_000, 3.0);
    let picture = svg(&[run("long", "long", long.clone())], &Options::default());
    assert!(picture.len() < 300_000, "{}", picture.len());
    let mut calm = long;
    calm.updates[29_999].loss = Some(4.0);
    let without = svg(&[run("long", "long", calm)], &Options::default());
    assert_ne!(picture, without);
}

/// Nothing that a log may hold makes a picture that cannot be drawn.
#[test]
fn strange_logs_make_whole_pictures() {
    let lines = [
        "",
        r#"{"kind":"train","step":1,"loss":null,"learning_rate":0,"grad_norm":null,"tokens":0,"tokens_per_second":0}"#,
        r#"{"kind":"train","step":0,"loss":1e308,"learning_rate":-1,"grad_norm":1e-320,"tokens":1,"tokens_per_second":1e-320}"#,
        r#"{"kind":"train","step":18446744073709551615,"loss":-5,"grad_norm":0,"tokens":18446744073709551615,"tokens_per_second":1e300}"#,
        r#"{"kind":"evaluation","step":9,"loss":3.5}"#,
    ];
    for count in 0..=lines.len() {
        let log = RunLog::parse(lines[..count].join("\n").as_bytes());
        for x in [XAxis::Steps, XAxis::Tokens, XAxis::Flops, XAxis::Seconds] {
            for is_log in [false, true] {
                let options = Options { x, log_x: is_log, log_y: is_log, ..Options::default() };
                let picture = svg(&[run("a", "a", log.clone())], &options);
                check_xml(&picture).unwrap();
                for wrong in ["NaN", "inf"] {
                    assert!(!picture.contains(wrong), "{x:?} {is_log} {count}: {wrong}");
                }
            }
        }
    }
    check_xml(&svg(&[], &Options::default())).unwrap();
}
