use proptest::prelude::*;

use super::*;

fn text(message: &str) -> String {
    Template::of(message).text()
}

fn same(a: &str, b: &str) -> bool {
    Template::of(a).stable_part() == Template::of(b).stable_part()
}

/// The template of lines that belong together.
fn merged(messages: &[&str]) -> String {
    let mut template = Template::of(messages[0]);
    for message in messages {
        let other = Template::of(message);
        assert_eq!(other.stable_part(), template.stable_part(), "{message}");
        template.merge(&other);
    }
    template.text()
}

#[test]
fn what_differs_from_time_to_time_is_masked() {
    for (message, expected) in [
        ("timeout after 30 ms to 10.0.0.7:80", "timeout after <n> ms to <ip>"),
        ("timeout after 30ms, 1.5 s or -7e-3V", "timeout after <n>, <n> s or <n>"),
        ("no route to 10.1.2.0/24 via fe80::1%eth0", "no route to <ip> via <ip>"),
        ("refused by [2001:db8::1]:8883", "refused by <ip>"),
        ("refused by ::1, gave up", "refused by <ip>, gave up"),
        ("station aa:bb:cc:dd:ee:ff left", "station <mac> left"),
        ("no volume 123e4567-e89b-12d3-a456-426614174000!", "no volume <uuid>!"),
        ("GET https://user@example.org:8443/a/b?c=1 failed", "GET <url> failed"),
        ("segfault at 0x7f ip deadbeef01 in libfoo.so.6", "segfault at <hex> ip <hex> in libfoo.so.<n>"),
        ("disk /dev/sda1 failed with 5", "disk <path> failed with <n>"),
        (
            "blk_update_request: I/O error, dev mmcblk0p1, sector 1234",
            "blk_update_request: I/O error, dev mmcblk<n>p<n>, sector <n>",
        ),
        ("2024-05-06T07:08:09.123Z lost at 07:08:09 since 2024-05-06", "<time> lost at <time> since <time>"),
        ("code=exited, status=1/FAILURE pid=4242 load=0.75", "code=exited, status=<n>/FAILURE pid=<n> load=<n>"),
        ("(temp=93.5C;fan=0rpm)", "(temp=<n>;fan=<n>)"),
        ("thread 7 panicked at src/main.rs:10:5", "thread <n> panicked at src/main.rs:<n>:<n>"),
        ("request a1b2c3d4e5 failed in aZ9fQ2Lm", "request <hex> failed in <id>"),
        (
            "fieldmedic-runbook-b1ea2e3eaa4c0d5f.service: Failed with result 'exit-code'.",
            "fieldmedic-runbook-<hex>.service: Failed with result 'exit-code'.",
        ),
        ("run-r0e401fa4d1a24d8b9c3e5f60718293ab.service: Failed", "run-<hex>.service: Failed"),
        (
            "run-u12.service, run-p12-i34.scope, session-c2.scope",
            "run-u<n>.service, run-p<n>-i<n>.scope, session-c<n>.scope",
        ),
        ("app-3f2a99c0 of pod123e4567-e89b-12d3-a456-426614174000_x7 is gone", "app-<hex> of pod<uuid>_x<n> is gone"),
        ("core-20240506 of sub-deadbeef or p1-12345678", "core-<n> of sub-deadbeef or p<n>-<n>"),
        ("upload took 1h0m1s, 1m0.5s, 59.2s or 2m3ms", "upload took <n>, <n>, <n> or <n>"),
        ("no 1m0 of m1s, v1m2s or 1m2x", "no <n>m<n> of m<n>s, v<n>m<n>s or <n>m<n>x"),
        ("charge is 12% of 3.7V", "charge is <n>% of <n>"),
        ("Feedback cafe accede", "Feedback cafe accede"),
    ] {
        assert_eq!(text(message), expected, "{message}");
    }
}

#[test]
fn a_line_with_a_date_is_the_same_on_every_day_however_the_date_is_written() {
    for (a, b, expected) in [
        (
            "Mon Nov 30 12:00:01 2026 TLS Error: TLS handshake failed",
            "Fri Jan  1 02:33:10 2027 TLS Error: TLS handshake failed",
            "<weekday> <month> <n> <time> <n> TLS Error: TLS handshake failed",
        ),
        (
            "[Mon Nov 30 12:00:01.123456 2026] [core:error] no file",
            "[Tue Dec 1 00:00:02.000001 2026] [core:error] no file",
            "[<weekday> <month> <n> <time> <n>] [core:error] no file",
        ),
        (
            r#"10.0.0.7 - - [30/Nov/2026:12:00:01 +0000] "GET" failed"#,
            r#"10.0.0.8 - - [01/May/2026:02:00:01 +0200] "GET" failed"#,
            r#"<ip> - - [<time> <n>] "GET" failed"#,
        ),
        (
            "stale since Sat, 28 Nov 2026 12:00:01 GMT",
            "stale since Wed, 2 Dec 2026 02:00:01 GMT",
            "stale since <weekday>, <n> <month> <n> <time> GMT",
        ),
        ("Nov 30 12:00:01 baz: died", "May  1 12:00:09 baz: died", "<month> <n> <time> baz: died"),
        (
            "next run on Mon 2026-11-30 12:00 UTC",
            "next run on Sun 2026-12-06 07:00 UTC",
            "next run on <weekday> <time> <time> UTC",
        ),
        (r#"time="Nov 30 12:00:01" level=error lost"#, r#"time="Dec 1 12:00:01" level=error lost"#, ""),
        ("valid until Nov 30, 2026 only", "valid until Dec 1, 2027 only", "valid until <month> <n>, <n> only"),
        ("built 28-Nov-2026 12:00", "built 2-Mar-2027 12:00", "built <time> <time>"),
        (
            "Nov 30, 2026 1:05:09 PM com.acme.Pump run SEVERE: pump lost",
            "Dec 1, 2026 12:30:00 AM com.acme.Pump run SEVERE: pump lost",
            "<month> <n>, <n> <time> <time> com.acme.Pump run SEVERE: pump lost",
        ),
        (
            "Mon Nov 30 01:00:01 PM UTC 2026: backup failed",
            "Tue Dec  1 11:00:01 AM UTC 2026: backup failed",
            "<weekday> <month> <n> <time> <time> UTC <n>: backup failed",
        ),
        (
            "[11/30/2026 1:05:09 AM] backup failed",
            "[12/1/2026 12:05:09\u{202f}PM] backup failed",
            "[<time> <time> <time>] backup failed",
        ),
        ("1/2/2027, 9:05 a.m.: disk late", "11/30/2026, 12:05 p.m.: disk late", "<time>, <time> <time>.: disk late"),
        (
            "Monday, November 30, 2026 12:00:00 backup failed",
            "Wednesday, May 6, 2026 9:05:01 backup failed",
            "<weekday>, <month> <n>, <n> <time> backup failed",
        ),
        ("Sept 9 9:00:01 lost", "October 10 10:00:01 lost", "<month> <n> <time> lost"),
    ] {
        assert_eq!(Template::of(a).stable_part(), Template::of(b).stable_part());
        if !expected.is_empty() {
            assert_eq!(text(a), expected);
        }
    }
    for message in [
        "May 30 retries not be enough",
        "Sun 4 of 7 panels dark",
        "cell Mar at 12:00 gave up",
        "Mon is out, Sat in",
        "Dec 12 is no Nov",
        "March 3 of 4 units off",
    ] {
        let text = text(message);
        assert!(!text.contains("<month>") && !text.contains("<weekday>"), "{text}");
    }
    for message in ["AM radio of 9 lost, am 9:05 tries, ratio 3:10", "part 1.2.2027 of 9-10-2048 is bad"] {
        assert!(!text(message).contains("<time>"), "{}", text(message));
    }
}

#[test]
fn lines_that_differ_in_a_name_are_one_template_whichever_comes_first() {
    let lines = ["connection to alpha refused by peer", "connection to beta refused by peer"];
    assert_eq!(text(lines[0]), lines[0], "one name is shown as it is");
    assert_eq!(merged(&lines), "connection to <*> refused by peer");
    assert_eq!(merged(&[lines[1], lines[0]]), "connection to <*> refused by peer");
    assert_eq!(merged(&[lines[0], lines[0]]), lines[0]);
    assert_eq!(
        merged(&["user alice not found on host north", "user bob not found on host south"]),
        "user <*> not found on host <*>"
    );
    assert_eq!(
        merged(&["login failed user=alice, twice", "login failed user=bob, twice"]),
        "login failed user=<*>, twice"
    );
    assert_eq!(merged(&["no key 'colour scheme' here", "no key 'size' here"]), "no key '<*>' here");
    assert_eq!(
        merged(&["could not resolve host: north", "could not resolve host: south"]),
        "could not resolve host: <*>"
    );
}

#[test]
fn lines_that_say_something_else_stay_apart() {
    for (a, b) in [
        ("out of memory", "out of space"),
        ("failed to open the lock", "failed to send the lock"),
        ("failed to open it", "failed to close it"),
        ("device not found", "device is busy"),
        ("killed by signal", "killed by watchdog"),
        ("motor overspeed detected", "motor stall detected"),
        ("alpha", "beta"),
        ("user alice", "user bob"),
        ("'disk failed'", "'fan failed'"),
        (r#"{"level":"error","msg":"disk failed"}"#, r#"{"level":"error","msg":"fan failed"}"#),
    ] {
        assert!(!same(a, b), "{a:?} and {b:?} are one: {}", Template::of(a).stable_part());
    }
}

#[test]
fn the_kernels_addresses_are_masked_though_it_writes_them_without_a_prefix() {
    for (at, ip, sp) in [
        ("1c8", "00007f12ab34cd56", "00007ffd12345678"),
        ("7ffde0", "000055d0c8e1f018", "00007ffdaaaaaaa8"),
        ("deadbeef", "0000561234567890", "00007ffdaaaaaaa8"),
        ("0", "0000000000000000", "00007ffdaaaaaaa8"),
    ] {
        let line = format!("app[77]: segfault at {at} ip {ip} sp {sp} error 4 in libfoo.so[7f12ab300000+1000]");
        let expected = "app[<n>]: segfault at <hex> ip <hex> sp <hex> error <n> in libfoo.so[<hex>+<n>]";
        assert_eq!(text(&line), expected);
    }
    assert_eq!(text("segfault at cafe ip bar sp beef"), "segfault at cafe ip bar sp beef");
    assert_eq!(text("looked at cafe ip fee sp beef"), "looked at cafe ip fee sp beef");
}

#[test]
fn a_line_in_colour_is_the_line_without_it() {
    for (colored, plain) in [
        ("\u{1b}[31mENOSPC\u{1b}[0m on write", "ENOSPC on write"),
        ("\u{1b}[1;31mfan stopped\u{1b}[0m", "fan stopped"),
        (
            "\u{1b}[2m2026-11-30T12:00:01Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m app\u{1b}[2m:\u{1b}[0m pump 7 lost",
            "2026-12-01T00:10:02Z ERROR app: pump 22 lost",
        ),
        ("\u{1b}[38;2;255;100;0mlost\u{1b}(B\u{1b}[m link", "lost link"),
        ("\u{9b}31mlost\u{9b}m link\u{1b}[K", "lost link"),
    ] {
        assert_eq!(Template::of(colored).stable_part(), Template::of(plain).stable_part(), "{colored:?}");
    }
    assert!(!same("\u{1b}[31mENOSPC\u{1b}[0m on write", "\u{1b}[31mEROFS\u{1b}[0m on write"));
    assert!(!same("\u{1b}[31mTimeout\u{1b}[0m", "\u{1b}[31mPanic\u{1b}[0m"));
    let long = "\u{1b}[0m".repeat(TEXT_MAX);
    assert_eq!(text(&format!("{long}disk failed{long}")), "disk failed", "whatever they take of a line");
}

#[test]
fn no_text_hides_in_what_is_said_to_a_terminal() {
    let digits = "4".repeat(40);
    for (message, expected) in [
        ("\u{1b}]0;disk failed\u{7}", "]<n>;disk failed"),
        ("\u{1b}Pdisk failed\u{1b}\\", "Pdisk failed \\"),
        ("a \u{1b}\u{1b}[31mb\u{1b}", "a b"),
        ("\u{1b}[3\u{e4} failed", "[<n> failed"),
        (&format!("\u{1b}[{digits}m failed"), "[<n> failed"),
        ("\u{1b}[", "["),
    ] {
        assert_eq!(text(message).trim(), expected.trim(), "{message:?}");
    }
}

#[test]
fn a_line_that_looks_like_a_template_is_no_way_to_another_cluster() {
    assert!(!same("connection to \u{1} refused by peer", "connection to alpha refused by peer"));
    assert_eq!(text("a\u{1}b said \u{0}"), "a b said");
}

proptest! {
    #[test]
    fn a_random_id_in_a_name_makes_no_template_of_its_own(id in "[0-9][a-f][0-9a-f]{14}") {
        prop_assert_eq!(text(&format!("book-{id}.service: Failed")), "book-<hex>.service: Failed");
        prop_assert_eq!(text(&format!("book-{id} failed")), "book-<hex> failed");
        let unit = format!("book-{id}.service");
        prop_assert_eq!(without_ids(&unit), "book-#.service");
    }

    #[test]
    fn a_token_is_an_id_whatever_letters_it_has(
        token in "eyJ[A-Za-z0-9_-]{10,40}[.]eyJ[A-Za-z0-9_-]{10,40}[.][A-Za-z0-9_-]{20,43}",
    ) {
        prop_assert_eq!(text(&format!("token {token} rejected")), "token <id> rejected");
        prop_assert_eq!(text(&format!("refused token={token}, again")), "refused token=<id>, again");
        let json = format!("{{\"msg\":\"rejected\",\"jwt\":\"{token}\"}}");
        prop_assert_eq!(text(&json), "{\"msg\":\"rejected\",\"jwt\":\"<id>\"}");
    }

    #[test]
    fn a_template_depends_on_its_own_lines_only_and_in_no_order(names in proptest::collection::vec("[a-z]{3,9}zz", 1..6)) {
        let lines: Vec<String> = names.iter().map(|name| format!("link to {name} was closed")).collect();
        let merge = |lines: &mut dyn Iterator<Item = &String>| {
            let mut template = Template::of(&lines.next().unwrap()[..]);
            lines.for_each(|line| template.merge(&Template::of(line)));
            template
        };
        prop_assert_eq!(merge(&mut lines.iter()), merge(&mut lines.iter().rev()));
    }

    #[test]
    fn any_text_has_a_template_of_bounded_size(message in "\\PC{0,300}|[ -~]{0,900}|[\\x00-\\x20'\"`()/:=0-9a-f.-]{0,700}") {
        let template = Template::of(&message);
        prop_assert!(template.text().len() <= TEXT_MAX);
        prop_assert!(template.slots.len() <= NAMES_MAX + QUOTES_MAX);
        prop_assert_eq!(Template::of(&message), template);
    }
}
