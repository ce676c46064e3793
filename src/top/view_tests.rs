//! Tests of [`super`]: whole screens on a terminal in memory.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;
use ratatui::style::{Color, Modifier};
use serde_json::json;

use super::super::lookup::Found;
use super::super::samples::{AT, DEVICE, failure, key, press, status, status_later};
use super::*;
use crate::client::LastRoute;
use crate::id::Cursor;
use crate::status::{GatewayStatus, Heard, Time};

fn after(millis: u64) -> Timestamp {
    Timestamp(AT.0 + millis)
}

fn model() -> Model {
    Model::new("http://127.0.0.1:8080", Duration::from_secs(2))
}

/// Two answers, 2 s apart.
fn running() -> Model {
    let mut model = model();
    model.update(Ok(status()), AT);
    model.update(Ok(status_later()), after(2000));
    model
}

/// After the second answer, and no other since.
fn in_an_outage() -> Model {
    let mut model = running();
    model.update(Err(failure()), after(4000));
    model
}

fn looking_up(mut model: Model) -> Model {
    press(&mut model, &DEVICE.to_string());
    model.key(key(KeyCode::Enter));
    model
}

fn drawn(model: &Model, now: Timestamp, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, now)).unwrap();
    terminal
}

/// The whole screen, without spaces at the end of lines.
fn screen(model: &Model, now: Timestamp, width: u16, height: u16) -> String {
    let terminal = drawn(model, now, width, height);
    let cells: Vec<_> = terminal.backend().buffer().content().iter().map(|cell| cell.symbol()).collect();
    let lines = cells.chunks(width as usize).map(|line| line.concat().trim_end().to_owned() + "\n");
    lines.collect()
}

/// The colour and the other marks of the line that begins with these words, at its first sign or that of its second column.
fn style(model: &Model, words: &str) -> (Color, Modifier) {
    let terminal = drawn(model, after(2500), 80, 24);
    let buffer = terminal.backend().buffer();
    let cells: Vec<_> = buffer.content().iter().map(|cell| cell.symbol()).collect();
    let line = |start: usize| cells[start..].iter().take(words.len()).copied().collect::<String>() == words;
    let start = (0..cells.len()).filter(|index| matches!(index % 80, 0 | 41)).find(|index| line(*index)).unwrap();
    (buffer.content()[start].fg, buffer.content()[start].modifier)
}

#[test]
fn a_running_gateway_fills_80_by_24() {
    assert_eq!(
        screen(&running(), after(2500), 80, 24),
        "\
lastroute 0.1.0  http://127.0.0.1:8080                           answered 0s ago
up 2h 03m  clock 2026-11-23 03:00:02 UTC  asked every 2s
Datagrams       per second        total  Devices          heard, counted 14s ago
accepted             1 235    1 237 036  20 000 known, 12 not registered
duplicate              0.5          891  5 min ██████████······  61%      12 200
too_old                  0            0  1 h   ███████████████·  92%      18 400
reflected                0            0  24 h  ████████████████  99%      19 999
short                    0            0  Traffic         per second        total
oversize                 0            0  relayed packets         15        4 230
unknown_network          0            0  relayed, refused         0            1
unknown_device           0            0  kernel drops             0            0
unknown_key              0            0  acks sent               45       45 768
bad_tag                  0            3  acks failed              0            0
not_registered           0            0  route moves            2.0        1 507
day_limited              0            0  wake-ups               100       52 200
all                  1 235    1 237 930  10 000 waiting, 50 connected over HTTP
Latest route moves
d291d4d66bf0a955      5s ago  network 203.0.113.7:6200 > 203.0.113.7:6201
51a0000100000000  3m 07s ago  device  127.0.0.1:52622 > [2001:db8::1]:35871




q quit   p pause   + - interval   type the id of a device to see it
"
    );
}

#[test]
fn a_wide_terminal_keeps_columns_readable() {
    assert_eq!(
        screen(&running(), after(2500), 120, 20),
        "\
lastroute 0.1.0  http://127.0.0.1:8080                                                                   answered 0s ago
up 2h 03m  clock 2026-11-23 03:00:02 UTC  asked every 2s
Datagrams       per second                         total  Devices                           heard, counted 14s ago
accepted             1 235                     1 237 036  20 000 known, 12 not registered
duplicate              0.5                           891  5 min ████████████████████·············  61%      12 200
too_old                  0                             0  1 h   ██████████████████████████████···  92%      18 400
reflected                0                             0  24 h  █████████████████████████████████  99%      19 999
short                    0                             0  Traffic         per second                         total
oversize                 0                             0  relayed packets         15                         4 230
unknown_network          0                             0  relayed, refused         0                             1
unknown_device           0                             0  kernel drops             0                             0
unknown_key              0                             0  acks sent               45                        45 768
bad_tag                  0                             3  acks failed              0                             0
not_registered           0                             0  route moves            2.0                         1 507
day_limited              0                             0  wake-ups               100                        52 200
all                  1 235                     1 237 930  10 000 waiting, 50 connected over HTTP
Latest route moves
d291d4d66bf0a955      5s ago  network 203.0.113.7:6200 > 203.0.113.7:6201
51a0000100000000  3m 07s ago  device  127.0.0.1:52622 > [2001:db8::1]:35871
q quit   p pause   + - interval   type the id of a device to see it
"
    );
}

#[test]
fn before_the_first_answer_the_screen_says_so() {
    assert_eq!(
        screen(&model(), AT, 80, 5),
        "\
lastroute  http://127.0.0.1:8080                                   no status yet
waiting for the first answer


q quit   p pause   + - interval   type the id of a device to see it
"
    );
}

#[test]
fn a_gateway_that_never_answered_is_an_error_with_its_remedy() {
    let mut model = model();
    model.update(Err(failure()), AT);
    assert_eq!(
        screen(&model, after(61_000), 80, 9),
        "\
lastroute  http://127.0.0.1:8080         no status for 1m 01s since 02:00:00 UTC
asked every 2s




cannot reach http://127.0.0.1:8080: Connection refused; is the gateway running
there? name its API with --gateway-api
q quit   p pause   + - interval   type the id of a device to see it
"
    );
}

#[test]
fn in_an_outage_what_was_known_stays_and_ages() {
    let mut model = in_an_outage();
    press(&mut model, "d291");
    assert_eq!(
        screen(&model, after(190_000), 80, 24),
        "\
lastroute 0.1.0  http://127.0.0.1:8080   no status for 3m 06s since 02:00:04 UTC
up 2h 03m  clock 2026-11-23 03:00:02 UTC  asked every 2s
Datagrams       per second        total  Devices       heard, counted 3m 22s ago
accepted             1 235    1 237 036  20 000 known, 12 not registered
duplicate              0.5          891  5 min ██████████······  61%      12 200
too_old                  0            0  1 h   ███████████████·  92%      18 400
reflected                0            0  24 h  ████████████████  99%      19 999
short                    0            0  Traffic         per second        total
oversize                 0            0  relayed packets         15        4 230
unknown_network          0            0  relayed, refused         0            1
unknown_device           0            0  kernel drops             0            0
unknown_key              0            0  acks sent               45       45 768
bad_tag                  0            3  acks failed              0            0
not_registered           0            0  route moves            2.0        1 507
day_limited              0            0  wake-ups               100       52 200
all                  1 235    1 237 930  10 000 waiting, 50 connected over HTTP
Latest route moves
d291d4d66bf0a955  3m 13s ago  network 203.0.113.7:6200 > 203.0.113.7:6201
51a0000100000000  6m 15s ago  device  127.0.0.1:52622 > [2001:db8::1]:35871


cannot reach http://127.0.0.1:8080: Connection refused; is the gateway running
there? name its API with --gateway-api
device d291_   Enter looks it up, Esc clears
"
    );
    assert!(style(&model, "accepted").1.contains(Modifier::DIM));
}

#[test]
fn what_is_wrong_with_the_gateway_stands_above_the_last_line() {
    let mut model = running();
    let degraded = [("records".to_owned(), "no space".to_owned())].into();
    model.update(Ok(GatewayStatus { degraded, ..status_later() }), after(4000));
    let screen = screen(&model, after(4000), 80, 24);
    assert_eq!(screen.lines().nth(22), Some("records: no space"), "{screen}");
    assert_eq!(style(&model, "records: no space").0, Color::Red);
    model.update(Ok(status_later()), after(6000));
    assert!(!self::screen(&model, after(6000), 80, 24).contains("no space"));
}

#[test]
fn after_a_restart_there_is_no_rate_until_the_next_answer() {
    let mut model = running();
    let restarted = GatewayStatus { started_at: Time(Timestamp(status_later().now.0.0 - 1000)), ..status_later() };
    model.update(Ok(restarted), after(4000));
    assert_eq!(
        screen(&model, after(4000), 80, 8),
        "\
lastroute 0.1.0  http://127.0.0.1:8080                           answered 0s ago
up 1s  clock 2026-11-23 03:00:02 UTC  asked every 2s  restarted once
Datagrams       per second        total  Devices          heard, counted 14s ago
accepted                 -    1 237 036  20 000 known, 12 not registered
duplicate                -          891  5 min ██████████······  61%      12 200
too_old                  -            0  1 h   ███████████████·  92%      18 400
reflected                -            0  24 h  ████████████████  99%      19 999
q quit   p pause   + - interval   type the id of a device to see it
"
    );
    model.update(Ok(status()), after(6000));
    assert!(screen(&model, after(6000), 80, 8).contains("asked every 2s  restarted 2 times\n"));
}

#[test]
fn a_device_that_was_heard_is_shown_below() {
    let mut model = looking_up(running());
    assert!(screen(&model, after(2500), 80, 24).contains("\nDevice d291d4d66bf0a955\nasking\nq quit"));
    let route = json!({"interface": "udp", "interfaceData": {"sequence": 4711},
        "udp": {"address": "203.0.113.7:6201", "time": "2026-11-23T02:59:57.123Z"}});
    let cursor = Some(Cursor { epoch: 7, n: 42 });
    let route = Some(LastRoute { route, cursor, trust: Some("network".to_owned()) });
    let state = Some(json!({"applicationId": 7}));
    model.update_device(DEVICE, Ok(Found { route, state }), after(2300));
    assert_eq!(
        screen(&model, after(3400), 80, 24),
        "\
lastroute 0.1.0  http://127.0.0.1:8080                           answered 1s ago
up 2h 03m  clock 2026-11-23 03:00:02 UTC  asked every 2s
Datagrams       per second        total  Devices          heard, counted 15s ago
accepted             1 235    1 237 036  20 000 known, 12 not registered
duplicate              0.5          891  5 min ██████████······  61%      12 200
too_old                  0            0  1 h   ███████████████·  92%      18 400
reflected                0            0  24 h  ████████████████  99%      19 999
short                    0            0  Traffic         per second        total
oversize                 0            0  relayed packets         15        4 230
unknown_network          0            0  relayed, refused         0            1
unknown_device           0            0  kernel drops             0            0
unknown_key              0            0  acks sent               45       45 768
bad_tag                  0            3  acks failed              0            0
not_registered           0            0  route moves            2.0        1 507
day_limited              0            0  wake-ups               100       52 200
all                  1 235    1 237 930  10 000 waiting, 50 connected over HTTP
Latest route moves
d291d4d66bf0a955      6s ago  network 203.0.113.7:6200 > 203.0.113.7:6201
51a0000100000000  3m 08s ago  device  127.0.0.1:52622 > [2001:db8::1]:35871
Device d291d4d66bf0a955                                             asked 1s ago
heard on udp from 203.0.113.7:6201, 6s ago, proved by network, sequence 4711
cursor 7-42
registered, application 0x00000007
q quit   p pause   + - interval   type another id   Esc closes this one
"
    );
}

#[test]
fn a_device_that_is_not_known_is_told_and_so_is_an_error() {
    let mut model = looking_up(running());
    model.update_device(DEVICE, Ok(Found::default()), after(2300));
    let end = |model: &Model, lines: usize| {
        let screen = screen(model, after(2400), 80, 24);
        screen.lines().skip(24 - lines).collect::<Vec<_>>().join("\n")
    };
    let heading = format!("Device d291d4d66bf0a955{:>57}", "asked 0s ago");
    let keys = "q quit   p pause   + - interval   type another id   Esc closes this one";
    assert_eq!(end(&model, 4), format!("{heading}\nnever heard\nnot registered\n{keys}"));
    model.update_device(DEVICE, Err(failure()), after(2300));
    assert_eq!(
        end(&model, 4),
        format!(
            "{heading}\ncannot reach http://127.0.0.1:8080: Connection refused; is the gateway running\nthere? name its \
             API with --gateway-api\n{keys}"
        )
    );
}

#[test]
fn what_is_typed_stands_at_the_bottom_with_what_is_wrong_with_it() {
    let mut model = running();
    press(&mut model, "/d2");
    let bottom = |model: &Model| screen(model, after(2500), 80, 24).lines().last().unwrap().to_owned();
    assert_eq!(bottom(&model), "device d2_   Enter looks it up, Esc clears");
    model.key(key(KeyCode::Enter));
    assert_eq!(bottom(&model), "device d2_   a device id is 16 hex digits, this has 2");
}

#[test]
fn a_gateway_without_devices_or_of_another_version_is_shown_as_it_is() {
    let mut none = status();
    (none.devices.total, none.devices.unregistered) = (0, 0);
    none.devices.heard = Heard { within_5m: 0, within_1h: 0, within_24h: 0, ..none.devices.heard };
    none.latest_moves.clear();
    none.entries.clear();
    none.datagrams = [("accepted".to_owned(), 0), ("too_funny".to_owned(), 12)].into();
    let mut model = model();
    model.update(Ok(none), AT);
    assert_eq!(
        screen(&model, AT, 80, 20),
        "\
lastroute 0.1.0  http://127.0.0.1:8080                           answered 0s ago
up 2h 03m  clock 2026-11-23 03:00:00 UTC  asked every 2s
Datagrams       per second        total  Devices          heard, counted 12s ago
accepted                 -            0  0 known, 0 not registered
too_funny                -           12  5 min ················    -           0
all                      -           12  1 h   ················    -           0
                                         24 h  ················    -           0
                                         Traffic         per second        total
                                         relayed packets          -            -
                                         relayed, refused         -            0
                                         kernel drops             -            0
                                         acks sent                -       45 678
                                         acks failed              -            0
                                         route moves              -        1 503
                                         wake-ups                 -       52 000
                                         10 000 waiting, 50 connected over HTTP
Latest route moves
none since the gateway started

q quit   p pause   + - interval   type the id of a device to see it
"
    );
}

#[test]
fn more_heard_than_there_are_now_is_the_whole_bar() {
    let mut status = status();
    status.devices.total = 10_000;
    let mut model = model();
    model.update(Ok(status), AT);
    assert!(screen(&model, AT, 80, 24).contains("5 min ████████████████ 100%      12 200\n"));
}

/// A gateway whose numbers went from half the largest there is to that in 2 s.
fn enormous() -> Model {
    let most = |part: u64| {
        let mut status = if part == 1 { status() } else { status_later() };
        let number = u64::MAX / (3 - part);
        status.datagrams.values_mut().chain(status.entries.values_mut()).for_each(|count| *count = 0);
        status.datagrams.insert("accepted".to_owned(), number);
        status.entries.insert("accepted".to_owned(), number);
        let heard = Heard { within_5m: number, within_1h: number, within_24h: number, ..status.devices.heard };
        status.devices = crate::status::Devices { total: number, unregistered: number, heard };
        status.waiters = crate::status::Waiting { now: number, woken: number };
        GatewayStatus {
            kernel_drops: number,
            acks_sent: number,
            route_moves: number,
            connections: number,
            latest_moves: Vec::new(),
            ..status
        }
    };
    let mut model = model();
    model.update(Ok(most(1)), AT);
    model.update(Ok(most(2)), after(2000));
    model
}

#[test]
fn a_number_without_room_is_rounded_or_left_out_on_every_terminal() {
    let numbers = ["18 446 744 073 709 551 615", "18446744073709551615", "1.84e19", "4.61e18"];
    let others = ["0", "5", "1", "24", "100%", "14s"];
    for width in 6..130 {
        let screen = screen(&enormous(), after(2500), width, 40);
        let body = screen.lines().skip(2).collect::<Vec<_>>().join("\n");
        let rest = numbers.iter().fold(body, |text, number| text.replace(number, "all of it"));
        let pieces = rest.split_whitespace().filter(|word| word.contains(|char: char| char.is_ascii_digit()));
        assert!(pieces.into_iter().all(|word| others.contains(&word)), "{width}:\n{screen}");
    }
    let narrow = screen(&enormous(), after(2500), 34, 40);
    for line in [
        "accepted           4.61e18 1.84e19",
        "5 min ███████████ 100%     1.84e19",
        "18 446 744 073 709 551 615 known,",
    ] {
        assert!(narrow.lines().any(|drawn| drawn == line), "{line} in\n{narrow}");
    }
}

#[test]
fn pausing_is_shown_with_the_age_of_what_is_shown() {
    let mut model = running();
    press(&mut model, "p+");
    let screen = screen(&model, after(65_000), 80, 24);
    assert!(screen.contains("paused, answered 1m 03s ago\nup 2h 03m  clock 2026-11-23 03:00:02 UTC  asked every 5s\n"));
}

#[test]
fn a_narrow_terminal_has_one_column_without_what_never_was() {
    assert_eq!(
        screen(&looking_up(running()), after(2500), 40, 24),
        "\
lastroute 0.1.0  http://127.0.0.1 0s ago
up 2h 03m  clock 2026-11-23 03:00:02 UTC
Datagrams       per second         total
accepted             1 235     1 237 036
duplicate              0.5           891
bad_tag                  0             3
all                  1 235     1 237 930
Devices           heard, counted 14s ago
20 000 known, 12 not registered
5 min ██████████·······  61%      12 200
1 h   ████████████████·  92%      18 400
24 h  █████████████████  99%      19 999
Traffic         per second         total
relayed packets         15         4 230
relayed, refused         0             1
kernel drops             0             0
acks sent               45        45 768
acks failed              0             0
route moves            2.0         1 507
wake-ups               100        52 200
10 000 waiting, 50 connected over HTTP
Device d291d4d66bf0a955
asking
q quit   p pause   + - interval   type a
"
    );
}

#[test]
fn the_smallest_terminal_has_what_counts() {
    assert_eq!(
        screen(&running(), after(2500), 20, 5),
        "\
lastroute 0.1 0s ago
Datagrams per second
accepted       1 235
duplicate        0.5
q quit   p pause   +
"
    );
    assert_eq!(
        screen(&in_an_outage(), after(190_000), 20, 5),
        "\
\x20   no status 3m 06s
Datagrams per second
accepted       1 235
cannot reach
q quit   p pause   +
"
    );
}

#[test]
fn no_size_is_too_small_or_too_large() {
    let all = [model(), running(), looking_up(in_an_outage()), looking_up(model())];
    for width in [0, 1, 9, 10, 11, 33, 34, 59, 60, 77, 78, 79, 250] {
        for height in [0, 1, 2, 3, 4, 7, 8, 9, 16, 17, 18, 19, 24, 100] {
            all.iter().for_each(|model| drop(drawn(model, after(5000), width, height)));
        }
    }
}

#[test]
fn what_matters_has_a_colour_and_what_never_was_is_dim() {
    let mut model = running();
    assert_eq!(style(&model, "accepted"), (Color::Green, Modifier::BOLD));
    assert_eq!(style(&model, "duplicate"), (Color::Reset, Modifier::empty()));
    assert_eq!(style(&model, "too_old"), (Color::Reset, Modifier::DIM));
    assert_eq!(style(&model, "kernel drops"), (Color::Reset, Modifier::empty()));
    let dropping = |seconds: u64, drops, failed| GatewayStatus {
        now: Time(Timestamp(status_later().now.0.0 + seconds * 1000)),
        kernel_drops: drops,
        acks_failed: failed,
        ..status_later()
    };
    model.update(Ok(dropping(2, 7, 1)), after(4000));
    assert_eq!(style(&model, "kernel drops"), (Color::Red, Modifier::BOLD));
    assert_eq!(style(&model, "acks failed"), (Color::Red, Modifier::BOLD));
    model.update(Ok(dropping(4, 7, 1)), after(6000));
    assert_eq!(style(&model, "kernel drops"), (Color::Yellow, Modifier::empty()), "dropped while one watched");
    assert_eq!(style(&model, "acks failed"), (Color::Reset, Modifier::empty()));
}

#[test]
fn text_is_broken_between_words() {
    assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
    assert_eq!(wrapped("incomprehensible word", 7), ["incomprehensible", "word"]);
    assert_eq!(wrapped("", 0), [""]);
}
