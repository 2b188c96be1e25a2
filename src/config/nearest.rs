//! The known name that somebody who mistyped probably meant.

/// The candidate that is nearest to `name`, if one is near enough to be meant.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = fold(name);
    // A name that long is no slip of the keyboard, and the distance costs the product of both lengths.
    if name.len() > 64 {
        return None;
    }
    let allowed = (name.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, &fold(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// ` , did you mean …?`, or nothing.
pub(super) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map(|known| format!(", did you mean `{known}`?")).unwrap_or_default()
}

/// Letter case and the kind of dash are no difference.
fn fold(name: &str) -> Vec<char> {
    name.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// Insertions, deletions, replacements and swaps of neighbours from `a` to `b` (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = [(0..=b.len()).collect::<Vec<_>>(), Vec::new(), Vec::new()];
    for i in 1..=a.len() {
        let [above, before_above, _] = &rows;
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_above[j - 2] + 1);
            }
            row.push(best);
        }
        rows.rotate_right(1);
        rows[0] = row;
    }
    rows[0][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<&str>) {
        assert_eq!(nearest(name, ["upstream", "url", "user_status", "ca"]), expected, "{name}");
    }

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        check("upstrem", Some("upstream"));
        check("upstraem", Some("upstream"));
        check("user-Status", Some("user_status"));
        check("ulr", Some("url"));
    }

    #[test]
    fn a_foreign_name_finds_none() {
        check("password", None);
        check("x", None);
        check("", None);
        check(&"u".repeat(1000), None);
    }
}
