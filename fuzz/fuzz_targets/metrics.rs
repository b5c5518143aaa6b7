//! Logs, as pictures are drawn from them.
#![no_main]

use colac_runtime::plot::log::RunLog;
use colac_runtime::plot::{Options, Run, XAxis, page, svg};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let log = RunLog::parse(bytes);
    let name = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
    let runs = [Run { group: name.clone(), name, log, flops_per_step: Some(u64::MAX) }];
    for (x, is_log) in [(XAxis::Steps, false), (XAxis::Flops, true), (XAxis::Seconds, true)] {
        let options = Options { x, log_x: is_log, log_y: is_log, ..Options::default() };
        let picture = svg(&runs, &options);
        assert!(!picture.contains("NaN") && !picture.contains("inf\""), "{picture}");
        assert!(page(&runs, &options).contains("</html>"));
    }
});
