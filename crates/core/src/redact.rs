//! What others say, without the secrets that they were sent: servers and proxies repeat a request in
//! their words about it, and those words become reasons, lines of the log and dead letters.

/// Shorter ones are left: they would tear other words apart, and keep nobody out.
const SECRET_BYTES_MIN: usize = 4;

/// The text with `***` in place of each of these.
pub fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut secrets: Vec<&str> =
        secrets.into_iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN).collect();
    // One that holds another goes first, and whole.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.into_iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_secret_is_taken_out_and_nothing_else() {
        let said = "no `hunter22` here, not even hunter2: hunter2s";
        assert_eq!(redact(said, ["hunter2", "hunter22"]), "no `***` here, not even ***: ***s");
        assert_eq!(redact("a cat", ["", "a"]), "a cat");
    }
}
