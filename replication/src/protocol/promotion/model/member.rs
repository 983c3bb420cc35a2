//! What the members of the model answer a candidate.

use super::*;

impl Cluster {
    pub(super) fn answer(
        &mut self,
        to: usize,
        from: usize,
        attempt: u64,
        action: CandidateAction,
    ) -> Option<CandidateEvent> {
        let node = &mut self.nodes[to];
        let name = node.name.clone();
        match action {
            CandidateAction::AskProbe(_) => Some(CandidateEvent::ProbeAnswered(
                name,
                ProbeAnswer {
                    role: Role::Standby,
                    end: node.log_end(),
                    highest: node.acceptor.newest().number,
                    primary_heard: None,
                },
            )),
            CandidateAction::AskOwn(request) => {
                let promise = self.promise(to, request)?;
                let policies = self.nodes[to].policies();
                Some(CandidateEvent::OwnAnswered {
                    promise,
                    policies,
                    lives: self.lives(),
                })
            }
            CandidateAction::AskPromise(_, request) => {
                let timeline = request.timeline;
                let promise = self.promise(to, request)?;
                Some(CandidateEvent::PromiseAnswered {
                    name,
                    timeline,
                    life: FIRST_LIFE,
                    promise,
                })
            }
            CandidateAction::FetchFrom { end, .. } => {
                let asking = self.nodes[from]
                    .candidate
                    .as_ref()
                    .map(|(attempt, _)| *attempt);
                let there = self.nodes[to].log_end();
                if asking != Some(attempt) || end.is_newer_than(&there) || there != end {
                    return Some(CandidateEvent::FetchFailed);
                }
                self.fetch(to, from);
                let end = self.nodes[from].log_end();
                let policies = self.nodes[from].policies();
                Some(CandidateEvent::Fetched {
                    end,
                    policies,
                    lives: self.lives(),
                })
            }
            _ => None,
        }
    }

    /// Nobody's data are lost in this model.
    pub(super) fn lives(&self) -> Lives {
        first_lives(self.nodes.iter().map(|node| node.name.clone()))
    }

    fn promise(&mut self, to: usize, request: PromiseRequest) -> Option<Promise> {
        let mut out = Vec::new();
        let (timeline, own) = (request.timeline, request.candidate == self.nodes[to].name);
        self.nodes[to]
            .acceptor
            .on(AcceptorEvent::Asked(request), &mut out);
        if let Some(AcceptorAction::Persist(_)) = out.last() {
            // Everything older stops before the end of the log is told.
            if !own {
                self.claim(to, timeline, false);
                self.on_candidate(to, CandidateEvent::Overtaken(timeline), Moment::ZERO);
            }
            self.flush(to);
            let end = self.nodes[to].log_end();
            self.story
                .push(format!("{to} promises {timeline} at {end:?}"));
            self.nodes[to]
                .acceptor
                .on(AcceptorEvent::Persisted(end), &mut out);
        }
        match out.pop() {
            Some(AcceptorAction::Reply { promise, .. }) => Some(promise),
            _ => None,
        }
    }

    /// The candidate `from` makes its log the same as that of `to`.
    fn fetch(&mut self, to: usize, from: usize) {
        let source = &self.nodes[to];
        let common = source.history.common_point(
            end_of(source.flushed),
            &self.nodes[from].history,
            end_of(self.nodes[from].flushed),
        );
        let common = entries_to(common.unwrap());
        self.check_cut(from, common);
        let log = self.nodes[to].log[..self.nodes[to].flushed].to_vec();
        let (history, newest) = (
            self.nodes[to].history.clone(),
            self.nodes[to].log_end().timeline,
        );
        let node = &mut self.nodes[from];
        node.flushed = log.len();
        node.log = log;
        node.history = history.until(newest.number).unwrap();
        node.restarting = false;
    }
}
