//! What was measured, as a table: the figure, its baseline, their ratio, and what it is meant to reach.

use std::fmt;

/// What a figure is meant to be.
#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, bound) = match self {
            Self::AtLeast(bound) => (">=", bound),
            Self::AtMost(bound) => ("<=", bound),
        };
        write!(f, "{sign} {}", number(*bound))
    }
}

#[derive(Default)]
pub struct Report {
    lines: Vec<String>,
    missed: Vec<String>,
}

impl Report {
    /// A figure that stands for itself.
    pub fn figure(&mut self, what: &str, value: f64, unit: &str, goal: Option<Goal>) {
        self.push(what, &format!("{} {unit}", number(value)), value, goal);
    }

    /// A figure beside its baseline: the goal is for their ratio.
    pub fn ratio(&mut self, what: &str, value: f64, (name, baseline): (&str, f64), unit: &str, goal: Option<Goal>) {
        let ratio = value / baseline;
        let shown = format!("{} {unit}, {name} {} {unit}: ratio {}", number(value), number(baseline), number(ratio));
        self.push(what, &shown, ratio, goal);
    }

    /// A line without a figure: how something was measured.
    pub fn note(&mut self, text: &str) {
        println!("{text}");
        self.lines.push(format!("  {text}"));
    }

    fn push(&mut self, what: &str, shown: &str, judged: f64, goal: Option<Goal>) {
        let verdict = goal.map_or(String::new(), |goal| {
            if goal.is_met(judged) {
                return format!("  [{goal}: reached]");
            }
            self.missed.push(what.to_owned());
            format!("  [{goal}: NOT REACHED]")
        });
        let line = format!("{what:<46} {shown}{verdict}");
        println!("{line}");
        self.lines.push(line);
    }

    /// Which figures are not what they are meant to be.
    pub fn missed(&self) -> &[String] {
        &self.missed
    }

    pub fn print(&self) {
        println!("\n== figures");
        for line in &self.lines {
            println!("{line}");
        }
    }
}

/// Three digits are as many as such a measurement has.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
            groups.join(",")
        }
        middle if middle >= 100.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
