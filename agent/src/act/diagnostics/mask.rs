//! Takes secrets out of text that leaves the gateway: what stands behind a telling word, a URL's user and password,
//! private keys, tokens that can be told by their form. Masks rather too much than too little, and never looks at what
//! it keeps.

/// What stands in a secret's place.
const MASK: &str = "***";
/// How far what a telling word gives away goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// The value behind `=` or `:`, or behind a blank where the word is an option.
    Value,
    /// The rest of the line behind `=` or `:`.
    Line,
    /// The word behind a blank.
    Word,
}

/// Words that tell of a secret.
const TELLING: [(&str, Reach); 16] = [
    ("password", Reach::Value),
    ("passwd", Reach::Value),
    ("passphrase", Reach::Value),
    ("pwd", Reach::Value),
    ("psk", Reach::Value),
    ("secret", Reach::Value),
    ("token", Reach::Value),
    ("api_key", Reach::Value),
    ("apikey", Reach::Value),
    ("api-key", Reach::Value),
    ("access_key", Reach::Value),
    ("private_key", Reach::Value),
    ("credential", Reach::Value),
    ("authorization", Reach::Line),
    ("cookie", Reach::Line),
    // RFC 6750: one word of its alphabet. No more, as modems have bearers too, and their log is wanted.
    ("bearer", Reach::Word),
];
/// Bytes of the longest name that a telling word stands in.
const NAME_MAX: usize = 64;
/// Lines of the longest private key: RSA with 16384 bits has 200.
const KEY_LINES_MAX: usize = 256;
/// AWS's key ids: one of these and 16 capitals and digits.
const AWS_KEYS: [&str; 2] = ["AKIA", "ASIA"];
const AWS_KEY_LEN: usize = 20;
/// How every JWT begins: `{"` in base64url.
const JWT: &str = "eyJ";

/// The lines of a text without their secrets. The time it takes grows with the text and no faster, whatever stands in
/// it.
pub(super) fn masked(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut in_key = false;
    for line in text.lines() {
        let (begins, ends) = (line.rfind("-----BEGIN"), line.rfind("-----END"));
        let tells = line.contains("PRIVATE KEY");
        let (begins, ends) = (begins.filter(|_| tells), ends.filter(|_| tells));
        // The text may begin inside of a key: its end is what is left to tell.
        if !in_key && ends.is_some() && (begins.is_none() || begins > ends) {
            lines.iter_mut().rev().take(KEY_LINES_MAX).for_each(|line| MASK.clone_into(line));
        }
        let is_key = in_key || begins.is_some() || ends.is_some();
        lines.push(if is_key { MASK.into() } else { words(&values(&user_info(line))) });
        if begins.is_some() || ends.is_some() {
            in_key = begins > ends;
        }
    }
    lines
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
    // ASCII's cases have the same length, so that places in one are places in the other.
    let lower = line.to_ascii_lowercase();
    let places = |(word, reach): &(&'static str, Reach)| {
        let (word, reach) = (*word, *reach);
        lower.match_indices(word).map(move |(at, _)| (at, at + word.len(), reach)).collect::<Vec<_>>()
    };
    let mut places: Vec<(usize, usize, Reach)> = TELLING.iter().flat_map(places).collect();
    places.sort_unstable();
    let mut masked = String::with_capacity(line.len());
    let mut done = 0;
    for (at, end, reach) in places {
        if at < done {
            continue;
        }
        let Some((before, after)) = line.split_at_checked(end) else { continue };
        let Some((gap, len)) = secret(before, after, reach).filter(|(_, len)| *len > 0) else { continue };
        masked += line.get(done..end + gap).unwrap_or_default();
        masked += MASK;
        done = end + gap + len;
    }
    masked + line.get(done..).unwrap_or_default()
}

/// How far behind a telling word its secret begins, and how long that is.
fn secret(before: &str, after: &str, reach: Reach) -> Option<(usize, usize)> {
    if reach == Reach::Word {
        let value = after.trim_start();
        let gap = after.len() - value.len();
        return (gap > 0).then(|| (gap, plain_len(value)));
    }
    let value = value(before, after)?;
    let opened = value.trim_start_matches('\\');
    let (escapes, quote) = (value.len() - opened.len(), opened.chars().next());
    let (from, len) = match (reach, quote) {
        (Reach::Line, _) | (_, Some('[' | '{' | '(')) => (value, value.len()),
        (_, Some(quote @ ('"' | '\''))) => {
            let inner = opened.get(1..)?;
            (inner, quoted_len(inner, quote, escapes))
        }
        _ => (value, plain_len(value)),
    };
    Some((after.len() - from.len(), len))
}

/// What stands behind the name that a telling word is in, and behind its `=`, `:`, `=>` or, for an option, its blank.
fn value<'a>(before: &str, after: &'a str) -> Option<&'a str> {
    // The rest of the name, as in `token_id`.
    let is_name = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '-');
    // A longer one is not looked through again for each telling word in it: the last of them finds what it needs.
    let name: usize = after.chars().take(NAME_MAX).take_while(is_name).map(char::len_utf8).sum();
    let tail = after.get(name..)?;
    let value = tail.trim_start_matches(['\\', '"', '\'']).trim_start();
    if value.starts_with(['=', ':']) {
        return Some(value.trim_start_matches(['=', ':', '>']).trim_start());
    }
    let first = before.chars().rev().take(NAME_MAX).take_while(|c| !c.is_whitespace()).last();
    (first == Some('-') && tail.starts_with(char::is_whitespace)).then_some(value)
}

/// How long a value in quotes is, its opening quote already left behind: up to the next quote that is escaped no deeper
/// than that was.
fn quoted_len(text: &str, quote: char, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, c) in text.char_indices() {
        if c == quote && backslashes <= escapes {
            return at - backslashes;
        }
        backslashes = if c == '\\' { backslashes + 1 } else { 0 };
    }
    text.len()
}

/// How long a value without quotes is: to the next blank, rather than to what may be a part of it, like `,` or `&`. A
/// quote is the end of what all of it stands in.
fn plain_len(text: &str) -> usize {
    let end = text.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).unwrap_or(text.len());
    let value = text.get(..end).unwrap_or_default();
    if end < text.len() { value.trim_end_matches('\\').len() } else { end }
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
    let is_jwt = word.find(JWT).and_then(|at| word.get(at..)).is_some_and(|jwt| jwt.matches('.').count() >= 2);
    is_jwt || word.split(|c: char| !c.is_ascii_alphanumeric()).any(is_aws_key)
}

fn is_aws_key(word: &str) -> bool {
    word.len() == AWS_KEY_LEN
        && AWS_KEYS.iter().any(|prefix| word.starts_with(prefix))
        && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_in_every_form_and_the_rest_stays() {
        let cases = [
            ("all is well at 12:30:45, mode=auto", "all is well at 12:30:45, mode=auto"),
            ("login with password=hunter2 ok", "login with password=*** ok"),
            ("PassWord: \"hun ter\" ok", "PassWord: \"***\" ok"),
            ("password='hun\\' ter' ok", "password='***' ok"),
            ("password=\"hun ter", "password=\"***"),
            ("{\"db_password\": \"hunter2\", \"port\": 5}", "{\"db_password\": \"***\", \"port\": 5}"),
            (
                r#"{"msg":"{\"password\": \"hun ter\", \"port\": 5}"}"#,
                r#"{"msg":"{\"password\": \"***\", \"port\": 5}"}"#,
            ),
            ("curl --token abc123 https://x", "curl --token *** https://x"),
            ("run --db_passwd abc123 now", "run --db_passwd *** now"),
            ("token_id='abc' secret:xyz, done", "token_id='***' secret:*** done"),
            ("password=ab,cd;ef&gh}ij ok", "password=*** ok"),
            ("password => hunter2 ok", "password => *** ok"),
            ("tokens = [\"abc\", \"def\"]", "tokens = ***"),
            ("psk=\"my wifi\" ssid=\"lab\"", "psk=\"***\" ssid=\"lab\""),
            ("https://host/?API_KEY=abc&user=me", "https://host/?API_KEY=***"),
            ("secret_access_key=abc token=def", "secret_access_key=*** token=***"),
            ("the token has expired", "the token has expired"),
            ("authorization failed for eth0", "authorization failed for eth0"),
            ("Authorization: Basic dXNlcjpwYXNz", "Authorization: ***"),
            ("{\"Authorization\":\"Basic dXNlcjpwYXNz\"}", "{\"Authorization\":***"),
            ("Set-Cookie: id=1; theme=dark", "Set-Cookie: ***"),
            ("sent bearer abc.def to us", "sent bearer *** to us"),
            ("sent Bearer\tabc.def", "sent Bearer\t***"),
            ("[modem0/bearer3] connected", "[modem0/bearer3] connected"),
            ("mqtts://me:pw@broker:8883/x and http://host/a@b", "mqtts://***@broker:8883/x and http://host/a@b"),
            ("got eyJhbGciOi.eyJhdWQi.c2ln, ok", "got ***, ok"),
            ("jwt-eyJhbGciOi.eyJhdWQi.c2ln", "***"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
            ("aws.AKIAIOSFODNN7EXAMPLE_1 used", "*** used"),
            ("AKIAIOSFODNN7EXAMPL is short", "AKIAIOSFODNN7EXAMPL is short"),
            ("пароль password=ключ é", "пароль password=*** é"),
            ("password=", "password="),
            ("password=\"\"", "password=\"\""),
            ("İpassword=x", "İpassword=***"),
        ];
        for (line, expected) in cases {
            assert_eq!(masked(line), [expected]);
        }
    }

    #[test]
    fn a_private_key_is_masked_from_its_first_line_to_its_last() {
        let text = "before\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nafter";
        assert_eq!(masked(text), ["before", "***", "***", "***", "after"]);
        let one_line = "k = \"-----BEGIN PRIVATE KEY-----\\nMHcC\\n-----END PRIVATE KEY-----\"\nafter";
        assert_eq!(masked(one_line), ["***", "after"]);
        let two = "-----END PRIVATE KEY----- -----BEGIN PRIVATE KEY-----\nMHcC";
        assert_eq!(masked(two), ["***", "***"]);
    }

    #[test]
    fn a_private_key_whose_beginning_was_cut_off_is_masked_all_the_same() {
        let key = "MHcCAQEE\n".repeat(3);
        let text = format!("{key}-----END EC PRIVATE KEY-----\nafter");
        assert_eq!(masked(&text), ["***", "***", "***", "***", "after"]);
        // No key is longer; what stands before it stays.
        let text = format!("{}-----END PRIVATE KEY-----", "line\n".repeat(KEY_LINES_MAX + 1));
        assert_eq!(masked(&text).iter().filter(|line| *line == "line").count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC*") {
            masked(&line);
        }

        #[test]
        fn what_stands_behind_a_telling_word_never_stays(
            secret in "[a-zA-Z0-9,;&}]{4,20}", gap in "[ ]{0,2}", sign in "=|:|=>|:=", quote in "|\"|'|\\\\\"",
        ) {
            let text = masked(&format!("x password{quote}{gap}{sign}{gap}{quote}{secret}{quote} y")).join("");
            proptest::prop_assert!(!text.contains(&secret), "{}", text);
            proptest::prop_assert!(text.ends_with(" y"), "{}", text);
        }
    }
}
