//! What `benches/peers` computes from figures: quotients, spreads, verdicts (the tests in
//! `benches/peers/src/report.rs`). The measuring itself is `./benches/peers/run`.

#[path = "../benches/peers/src"]
mod benches {
    #[expect(dead_code, reason = "those who measure use the rest")]
    pub(super) mod measure;
    #[expect(dead_code, reason = "the program prints more")]
    pub(super) mod report;
    pub(super) mod rows;
}
