//! Takes secrets out of text that leaves the gateway: what stands behind a telling word, a URL's user and password, private
//! keys, tokens that can be told by their form. Masks rather too much than too little, and never looks at what it keeps.

/// What stands in a secret's place.
const MASK: &str = "***";
/// Behind these, `=`, `:` or a blank comes a secret.
const TELLING: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "private_key",
    "credential",
];
/// Behind these the rest of the line is secret.
const TELLING_TO_THE_END: [&str; 3] = ["authorization", "bearer ", "cookie:"];
/// AWS's key ids: one of these and 16 capitals and digits.
const AWS_KEYS: [&str; 2] = ["AKIA", "ASIA"];
const AWS_KEY_LEN: usize = 20;
/// How every JWT begins: `{"` in base64url.
const JWT: &str = "eyJ";

/// Masks text line by line; a private key goes on over lines.
#[derive(Debug, Default)]
pub(super) struct Masking {
    in_key: bool,
}

impl Masking {
    pub(super) fn line(&mut self, line: &str) -> String {
        if self.in_key {
            self.in_key = !line.contains("-----END");
            return MASK.into();
        }
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            self.in_key = !line.contains("-----END");
            return MASK.into();
        }
        words(&values(&user_info(&to_the_end(line))))
    }
}

/// Where one of these words begins and ends, in whatever case.
fn find(text: &str, words: &[&str]) -> Option<(usize, usize)> {
    // ASCII's cases have the same length, so that places in one are places in the other.
    let lower = text.to_ascii_lowercase();
    let places = words.iter().filter_map(|word| lower.find(word).map(|at| (at, at + word.len())));
    places.min()
}

fn to_the_end(line: &str) -> String {
    match find(line, &TELLING_TO_THE_END).and_then(|(_, end)| line.split_at_checked(end)) {
        Some((kept, secret)) if !secret.trim().is_empty() => format!("{kept}{MASK}"),
        _ => line.to_owned(),
    }
}

/// `scheme://user:password@host` (RFC 3986).
fn user_info(line: &str) -> String {
    let mut parts = line.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        masked += "://";
        let authority =
            part.split(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).next().unwrap_or_default();
        match authority.rfind('@').and_then(|at| part.split_at_checked(at)) {
            Some((_, rest)) => {
                masked += MASK;
                masked += rest;
            }
            None => masked += part,
        }
    }
    masked
}

/// `password=x`, `password: "x"`, `"password": "x"`, `--password x`.
fn values(line: &str) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((at, end)) = find(rest, &TELLING) {
        let option = rest.get(..at).is_some_and(|before| before.ends_with("--") || before.ends_with("-"));
        let Some((before, after)) = rest.split_at_checked(end) else { break };
        masked += before;
        rest = after;
        // The rest of the word, as in `token_id`.
        let word = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '-')).unwrap_or(rest.len());
        let separator = separator(rest.get(word..).unwrap_or_default(), option);
        let Some((kept, value)) = rest.split_at_checked(word + separator) else { break };
        masked += kept;
        rest = value;
        if separator > 0 {
            let secret = secret_len(value);
            if secret > 0 {
                masked += MASK;
            }
            rest = value.get(secret..).unwrap_or_default();
        }
    }
    masked + rest
}

/// How much stands between a telling word and its value; none if no value follows.
fn separator(text: &str, option: bool) -> usize {
    let is_gap = |c: char| c == ' ' || c == '\t';
    let tail = text.trim_start_matches(['"', '\'']).trim_start_matches(is_gap);
    let value = match tail.strip_prefix(['=', ':']) {
        Some(value) => value.trim_start_matches(is_gap),
        None if option && tail.len() < text.len() => tail,
        None => return 0,
    };
    text.len() - value.trim_start_matches(['"', '\'']).len()
}

/// How long a value is, its opening quote already left behind.
fn secret_len(text: &str) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';' | '}' | '&')).unwrap_or(text.len())
}

/// Words that can be told by their form.
fn words(line: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let gap = rest.get(word..).and_then(|tail| tail.find(is_word)).map_or(rest.len(), |gap| word + gap);
        let found = rest.get(..word).unwrap_or_default();
        masked += if is_secret(found) { MASK } else { found };
        masked += rest.get(word..gap).unwrap_or_default();
        rest = rest.get(gap..).unwrap_or_default();
    }
    masked
}

fn is_secret(word: &str) -> bool {
    let is_jwt = word.starts_with(JWT) && word.matches('.').count() >= 2;
    let is_aws = word.len() == AWS_KEY_LEN
        && AWS_KEYS.iter().any(|prefix| word.starts_with(prefix))
        && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_jwt || is_aws
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_every_form_and_the_rest_stays() {
        let cases = [
            ("all is well at 12:30:45, mode=auto", "all is well at 12:30:45, mode=auto"),
            ("login with password=hunter2 ok", "login with password=*** ok"),
            ("PassWord: \"hun ter\"", "PassWord: \"*** ter\""),
            ("{\"db_password\": \"hunter2\", \"port\": 5}", "{\"db_password\": \"***\", \"port\": 5}"),
            ("curl --token abc123 https://x", "curl --token *** https://x"),
            ("token_id='abc' secret:xyz; done", "token_id='***' secret:***; done"),
            ("API_KEY=abc&user=me", "API_KEY=***&user=me"),
            ("the token has expired", "the token has expired"),
            ("Authorization: Basic dXNlcjpwYXNz", "Authorization***"),
            ("sent bearer abc.def", "sent bearer ***"),
            ("mqtts://me:pw@broker:8883/x and http://host/a@b", "mqtts://***@broker:8883/x and http://host/a@b"),
            ("got eyJhbGciOi.eyJhdWQi.c2ln, ok", "got ***, ok"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
            ("AKIAIOSFODNN7EXAMPL is short", "AKIAIOSFODNN7EXAMPL is short"),
            ("пароль password=ключ é", "пароль password=*** é"),
            ("password=", "password="),
            ("İpassword=x", "İpassword=***"),
        ];
        for (line, expected) in cases {
            assert_eq!(Masking::default().line(line), expected);
        }
    }

    #[test]
    fn a_private_key_is_masked_from_its_first_line_to_its_last() {
        let mut masking = Masking::default();
        let lines = ["before", "-----BEGIN EC PRIVATE KEY-----", "MHcCAQEE", "-----END EC PRIVATE KEY-----", "after"];
        assert_eq!(lines.map(|line| masking.line(line)), ["before", "***", "***", "***", "after"]);
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC*") {
            Masking::default().line(&line);
        }

        #[test]
        fn what_stands_behind_a_telling_word_never_stays(secret in "[a-zA-Z0-9]{4,20}", gap in "[ ]{0,2}") {
            let masked = Masking::default().line(&format!("x password{gap}={gap}{secret} y"));
            proptest::prop_assert!(!masked.contains(&secret), "{}", masked);
        }
    }
}
