//! Reports over gRPC: by which names, and several at once.

use tollgate::grpc::proto::tollgate_client::TollgateClient;
use tollgate::grpc::proto::{
    Descriptor, Entry, ProgressRequest, ReportBatchRequest, ReportRequest, ReportResult,
    ReserveRequest, Usage,
};
use tonic::Code;

use crate::support::http;
use crate::support::rls::channel;
use crate::support::served::Tollgate;

const CONFIG: &str = "
domain: llm
descriptors:
  - key: tenant
    limits: [{ name: tokens, rate: 10k/year, cost: tokens, estimate: 800 }]
";

fn report(domain: &str, id: &str, usage: Usage) -> ReportRequest {
    let entry = Entry {
        key: "tenant".to_owned(),
        value: "acme".to_owned(),
    };
    ReportRequest {
        domain: domain.to_owned(),
        descriptors: vec![Descriptor {
            entries: vec![entry],
        }],
        usage: Some(usage),
        id: id.to_owned(),
    }
}

#[tokio::test]
async fn each_report_of_a_batch_is_answered_for_itself() {
    let files = tempfile::tempdir().unwrap();
    let config = files.path().join("llm.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let tollgate = Tollgate::serve(&[&format!("--config={}", config.display())]);
    let mut client = TollgateClient::new(channel(tollgate.grpc).await);
    let reserve = ReserveRequest {
        domain: "llm".to_owned(),
        descriptors: report("llm", "", Usage::default()).descriptors,
        id: "r1".to_owned(),
        ..ReserveRequest::default()
    };
    assert!(client.reserve(reserve).await.unwrap().into_inner().admitted);

    let grown = client
        .progress(ProgressRequest {
            id: "r1".to_owned(),
            domain: "llm".to_owned(),
            usage: Some(Usage {
                output_tokens: Some(900),
                ..Usage::default()
            }),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(grown.result(), ReportResult::Grown);
    assert_eq!(grown.buckets[0].level, 9100);

    let inclusive = Usage {
        prompt_tokens: Some(100),
        cached_tokens: Some(60),
        completion_tokens: Some(20),
        total_tokens: Some(120),
        ..Usage::default()
    };
    let contradiction = Usage {
        prompt_tokens: Some(5),
        cached_tokens: Some(6),
        ..Usage::default()
    };
    let reports = vec![
        report("llm", "r1", inclusive),
        report("llm", "", contradiction),
        report("elsewhere", "", inclusive),
        report(
            "llm",
            "",
            Usage {
                total_tokens: Some(1_000),
                ..Usage::default()
            },
        ),
    ];
    let batch = ReportBatchRequest { reports };
    let answer = client.report_batch(batch).await.unwrap().into_inner();
    let told: Vec<(ReportResult, String)> = answer
        .reports
        .iter()
        .map(|report| {
            let error = report.error.as_ref();
            let reason = error.map_or("", |error| &error.reason);
            (report.result(), reason.to_owned())
        })
        .collect();
    let none = ReportResult::Unspecified;
    assert_eq!(
        told,
        [
            (ReportResult::Settled, String::new()),
            (none, "bad_usage".to_owned()),
            (none, "unknown_domain".to_owned()),
            (ReportResult::Charged, String::new()),
        ]
    );
    let nothing = report(
        "llm",
        "",
        Usage {
            total: Some(0),
            ..Usage::default()
        },
    );
    client.report(nothing).await.unwrap();
    let one = report(
        "llm",
        "",
        Usage {
            total: Some(1),
            ..Usage::default()
        },
    );
    let left = client.report(one).await.unwrap().into_inner().buckets[0].level;
    assert_eq!(left, 10_000 - 120 - 1_000 - 1);

    let many = ReportBatchRequest {
        reports: vec![report("llm", "", inclusive); 1_001],
    };
    let refused = client.report_batch(many).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let message = "1001 reports are more than the 1000 that one call may carry";
    assert_eq!(refused.message(), message);
    let metrics = http::send(tollgate.http, "GET", "/metrics", b"").await.body;
    let invalid = "tollgate_reports_total{result=\"invalid\",source=\"api\"} 3\n";
    assert!(metrics.contains(invalid), "{metrics}");
}
