//! The table of a race.
//!
//! Owns its words and columns. Must not compute anything that the result does not hold.

use std::fmt::Write;
use std::path::Path;

use colac_compiler::view::text;
use colac_runtime::race::length::Rule;
use colac_runtime::race::standings::{Contender, Difference, Standings};
use colac_runtime::race::statistics::Verdict;

use crate::shared::console;

/// The whole report.
pub(super) fn table(standings: &Standings, out: &Path) -> String {
    let mut report = String::new();
    let seeds = standings.seeds.len();
    let _ = writeln!(
        report,
        "{}: {} contenders, {} seed{}, {}\n",
        standings.name,
        standings.contenders.len(),
        seeds,
        if seeds == 1 { "" } else { "s" },
        stopped(standings),
    );
    report += &aligned(&rows(standings));
    report.push('\n');
    report += &differences(standings);
    let _ = writeln!(
        report,
        "\nresult  {}\nfigure  {}, {}",
        out.join("race.json").display(),
        out.join("race.svg").display(),
        out.join("race.html").display()
    );
    report
}

fn stopped(standings: &Standings) -> String {
    let Some(first) = standings.contenders.first() else { return String::new() };
    match standings.equal {
        Rule::Tokens => {
            let tokens = first.step.tokens * first.steps;
            format!("stopped at equal tokens: {} each", text::grouped(tokens))
        }
        Rule::Flops => format!(
            "stopped at equal FLOPs: at most {}FLOP each, in whole steps",
            spaced(first.flops as f64)
        ),
    }
}

/// A count with its unit's prefix: `7.49 E`, for `7.49 EFLOP`.
pub(super) fn spaced(count: f64) -> String {
    let text = text::count(count);
    if text.contains(' ') { text } else { text + " " }
}

fn rows(standings: &Standings) -> Vec<Vec<String>> {
    let has_several = standings.seeds.len() > 1;
    let mut heading =
        ["contender", "parameters", "steps", "tokens", "FLOPs", "time", "loss", "perplexity"]
            .map(str::to_owned)
            .to_vec();
    let has_bits = standings
        .contenders
        .iter()
        .any(|contender| contender.finishes.iter().any(|finish| finish.bits_per_byte.is_some()));
    if has_bits {
        heading.push("bits/byte".to_owned());
    }
    if has_several {
        heading.push("losses by seed".to_owned());
    }
    let mut rows = vec![heading];
    for contender in &standings.contenders {
        let mut row = vec![
            contender.name.clone(),
            text::grouped(contender.parameters),
            text::grouped(contender.steps),
            text::count((contender.step.tokens * contender.steps) as f64),
            text::count(contender.flops as f64),
            contender.training_seconds().map_or_else(dash, console::duration),
            loss(contender),
            contender.perplexity.map_or_else(dash, |perplexity| format!("{perplexity:.2}")),
        ];
        if has_bits {
            let bits: Option<Vec<f64>> =
                contender.finishes.iter().map(|finish| finish.bits_per_byte).collect();
            let mean = bits.filter(|bits| !bits.is_empty());
            let mean = mean.map(|bits| bits.iter().sum::<f64>() / bits.len() as f64);
            row.push(mean.map_or_else(dash, |bits| format!("{bits:.4}")));
        }
        if has_several {
            let losses = contender.finishes.iter().map(|finish| format!("{:.4}", finish.loss));
            row.push(losses.collect::<Vec<_>>().join("  "));
        }
        rows.push(row);
    }
    rows
}

fn dash() -> String {
    "-".to_owned()
}

/// `4.5190 ± 0.0390`: the mean and, over several seeds, the standard deviation.
fn loss(contender: &Contender) -> String {
    match (contender.mean_loss, contender.loss_deviation) {
        (Some(mean), Some(deviation)) => format!("{mean:.4} ± {deviation:.4}"),
        (Some(mean), None) => format!("{mean:.4}"),
        (None, _) => dash(),
    }
}

/// Columns under each other: the first and the last to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str("  ");
            let _ = match column == 0 || column == count - 1 {
                true => write!(line, "{cell:<width$}"),
                false => write!(line, "{cell:>width$}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn differences(standings: &Standings) -> String {
    let percent = (standings.confidence * 100.0).round();
    let mut report = String::new();
    let _ = writeln!(
        report,
        "validation loss against {}, seed by seed, in nats per token (below 0 is better)",
        standings.reference
    );
    let mut rows = Vec::new();
    for Difference { contender, loss, .. } in &standings.differences {
        let interval = match loss.interval {
            Some(interval) => {
                format!("{percent} % interval {:+.4} to {:+.4}", interval.low, interval.high)
            }
            None => "no interval".to_owned(),
        };
        rows.push(vec![contender.clone(), format!("{:+.4}", loss.mean), interval]);
    }
    report += &aligned(&rows);
    for difference in &standings.differences {
        let _ = writeln!(report, "\n  {}", sentence(difference, &standings.reference, percent));
    }
    if standings.differences.len() > 1 && standings.seeds.len() > 1 {
        let _ = writeln!(
            report,
            "\n  Each interval holds by itself; of many, some miss the truth by chance."
        );
    }
    report
}

/// What a difference allows to say.
fn sentence(difference: &Difference, reference: &str, percent: f64) -> String {
    let Difference { contender, loss, verdict } = difference;
    let (interval, pairs) = (loss.interval, loss.pairs);
    let range = |low: f64, high: f64| format!("{:.4} to {:.4}", low.min(high), low.max(high));
    match (verdict, interval) {
        (Verdict::OnePair, _) | (_, None) => format!(
            "{contender} and {reference} were compared with one seed: chance and difference cannot be told apart.\n  \
             Repeat the command with --seeds 3 or more."
        ),
        (Verdict::NotShown, Some(interval)) => format!(
            "The interval covers 0: these {pairs} seeds do not show whether {contender} or {reference} is better.\n  \
             They would fit {contender} being better by up to {:.4} or worse by up to {:.4}; more seeds narrow that.",
            -interval.low, interval.high
        ),
        (Verdict::Lower, Some(interval)) => format!(
            "{contender} is better than {reference}: its loss is lower by {} ({percent} % interval, {pairs} seeds).",
            range(-interval.low, -interval.high)
        ),
        (Verdict::Higher, Some(interval)) => format!(
            "{contender} is worse than {reference}: its loss is higher by {} ({percent} % interval, {pairs} seeds).",
            range(interval.low, interval.high)
        ),
    }
}

#[cfg(test)]
mod tests {
    use colac_runtime::race::length::Step;
    use colac_runtime::race::standings::Finish;

    use super::*;

    fn standings(ours: &[f64], theirs: &[f64]) -> Standings {
        let contender = |name: &str, losses: &[f64]| {
            let step = Step { flops: 8_000_000_000, tokens: 1024 };
            let mut contender = Contender::new(name.to_owned(), "cola", 1_362_048, 3000, step);
            for (seed, &loss) in (1..).zip(losses) {
                contender.add(Finish {
                    seed,
                    loss,
                    perplexity: loss.exp(),
                    bits_per_byte: Some(loss / 2.0),
                    evaluated_tokens: 20_480,
                    tokens: 3_072_000,
                    training_seconds: 146.0,
                    run: format!("races/s/{name}-seed-{seed}"),
                });
            }
            contender
        };
        let all = vec![contender("cola", ours), contender("full-rank", theirs)];
        let seeds = (1..=ours.len() as u64).collect();
        Standings::new("s".to_owned(), Rule::Tokens, seeds, all, "full-rank".to_owned())
    }

    fn report(ours: &[f64], theirs: &[f64]) -> String {
        table(&standings(ours, theirs), Path::new("races/s"))
    }

    #[test]
    fn the_table_is_aligned() {
        let report = report(&[4.5577, 4.4800, 4.5204], &[4.4939, 4.4834, 4.5148]);
        let expected = "\
s: 2 contenders, 3 seeds, stopped at equal tokens: 3,072,000 each

  contender  parameters  steps  tokens    FLOPs        time             loss  perplexity  bits/byte  losses by seed
  cola        1,362,048  3,000  3.07 M  24.00 T  2 min 26 s  4.5194 ± 0.0389       91.78     2.2597  4.5577  4.4800  4.5204
  full-rank   1,362,048  3,000  3.07 M  24.00 T  2 min 26 s  4.4974 ± 0.0160       89.78     2.2487  4.4939  4.4834  4.5148

validation loss against full-rank, seed by seed, in nats per token (below 0 is better)
  cola  +0.0220  95 % interval -0.0686 to +0.1126

  The interval covers 0: these 3 seeds do not show whether cola or full-rank is better.
  They would fit cola being better by up to 0.0686 or worse by up to 0.1126; more seeds narrow that.

result  races/s/race.json
figure  races/s/race.svg, races/s/race.html
";
        assert_eq!(report, expected);
    }

    #[test]
    fn claims_go_as_far_as_the_interval() {
        let better = report(&[4.0, 4.1, 4.2], &[4.5, 4.61, 4.69]);
        assert!(
            better.contains("cola is better than full-rank: its loss is lower by 0.4"),
            "{better}"
        );
        let worse = report(&[4.5, 4.61, 4.69], &[4.0, 4.1, 4.2]);
        assert!(
            worse.contains("cola is worse than full-rank: its loss is higher by 0.4"),
            "{worse}"
        );
        let one = report(&[4.5], &[4.4]);
        assert!(one.contains("no interval") && one.contains("one seed"), "{one}");
        assert!(!one.contains('±') && !one.contains("better than"), "{one}");
    }
}
