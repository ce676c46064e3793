//! Files that cannot be read, a directory that is in use, and a disk that takes no more.

use crate::harness::{Device, Site, files, only_line};

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_refused_with_what_to_do_and_set_aside_when_that_is_asked_for() {
    let site = Site::new();
    let gateway = site.start(&[]);
    let mut device = Device::new(7);
    gateway.hears(&mut device).await;
    gateway.stop();
    let records = files(&site.routes()).pop().unwrap();
    let mut bytes = std::fs::read(&records).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&records, &bytes).unwrap();

    let refused = site.fails(&[]);
    let line = only_line(&refused);
    assert_eq!(refused.status.code(), Some(2));
    assert!(line.contains(records.to_str().unwrap()) && line.contains("--set-aside-routes"), "{line}");

    let gateway = site.start(&["--set-aside-routes"]);
    assert_eq!(gateway.route(&device).await, None);
    gateway.hears(&mut device).await;
    gateway.stop();
    let gateway = site.start(&["--set-aside-routes"]);
    assert_eq!(gateway.route(&device).await, Some(device.address()), "what can be read stays");
    let aside = files(&site.data()).into_iter().find(|path| path.to_string_lossy().contains("routes.bad-")).unwrap();
    assert_eq!(std::fs::read(aside.join(records.file_name().unwrap())).unwrap(), bytes);
}

#[test]
fn a_second_process_on_the_same_directory_is_refused() {
    let site = Site::new();
    let _first = site.start(&[]);
    let refused = site.fails(&["--set-aside-routes"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(only_line(&refused).contains("is in use by another process"));
    assert_eq!(files(&site.data()).iter().filter(|path| path.to_string_lossy().contains("bad")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_can_be_written_the_gateway_serves_on_and_makes_up_for_it_afterwards() {
    let site = Site::new();
    let gateway = site.start_unharmed_by_limits(&["--checkpoint-ms", "50"]);
    let mut devices: Vec<_> = (1..=60).map(Device::new).collect();
    gateway.hears(&mut devices[0]).await;
    gateway.written().await;
    // No file may become longer than the records are by now.
    let longest = files(&site.routes()).iter().map(|path| path.metadata().unwrap().len()).max().unwrap();
    gateway.limit_files(&longest.to_string());
    for device in &mut devices {
        gateway.hears(device).await;
    }
    gateway.until(async || gateway.metric("lastroute_checkpoints_failed_total").await >= 3.0).await;
    for device in &devices {
        assert_eq!(gateway.route(device).await, Some(device.address()));
    }
    gateway.limit_files("unlimited");
    gateway.written().await;
    gateway.kill();
    let gateway = site.start(&[]);
    for device in &devices {
        assert_eq!(gateway.route(device).await, Some(device.address()));
    }
}
