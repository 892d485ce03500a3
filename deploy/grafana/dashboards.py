#!/usr/bin/env python3
"""Writes the Grafana dashboards: python3 dashboards.py, or with --check, which fails where a file is not up to date."""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
INSTANCES = 'instance=~"$instance"'


def quantile(q, metric, by="le"):
    return f"histogram_quantile({q}, sum by ({by}) (rate({metric}_bucket{{{INSTANCES}}}[$__rate_interval])))"


def rate(metric, labels="", by=""):
    selector = INSTANCES + (", " + labels if labels else "")
    total = f"sum by ({by})" if by else "sum"
    return f"{total} (rate({metric}{{{selector}}}[$__rate_interval]))"


def total(metric, by=""):
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{INSTANCES}}})"


def quantiles(metric):
    return [(quantile(q, metric), name) for q, name in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9"))]


# Title, unit, what a reader should know, queries with their legends.
OVERVIEW = [
    ("Nodes by phase", "none", "running, or on their way to the end.", [(total("sse_gateway_phase", "phase"), "{{phase}}")]),
    ("Streams", "none", "Event streams open, by node.", [(total("sse_gateway_streams_open", "instance"), "{{instance}}")]),
    ("Redis", "none", "1 while events flow from Redis to the node.", [(f"min by (instance) (sse_gateway_redis_up{{{INSTANCES}}})", "{{instance}}")]),
    ("Events to rooms", "ops", "Events that reached a room of a shard.", [(rate("sse_gateway_events_total", by="instance"), "{{instance}}")]),
    ("Deliveries", "ops", "Events times the streams that they were due to.", [(rate("sse_gateway_deliveries_total", by="instance"), "{{instance}}")]),
    ("From publishing to the node", "s", "Wrong by as much as the clocks of Redis and of the node differ.", quantiles("sse_gateway_event_lag_seconds")),
    ("From the node to all streams of a room", "s", "Up to the last write.", quantiles("sse_gateway_fanout_seconds")),
    ("Opened and closed", "ops", "Streams, by why they ended.", [(rate("sse_gateway_streams_opened_total"), "opened"), (rate("sse_gateway_streams_closed_total", by="reason"), "{{reason}}")]),
    ("Time to join a room", "s", "What was missed included.", quantiles("sse_gateway_subscribe_seconds")),
    ("Continuity not proved", "ops", "stream.reset events: clients that may have missed something, and were told.", [(rate("sse_gateway_resets_total", by="reason"), "{{reason}}")]),
    ("Publishing over HTTP", "ops", "By what became of the events.", [(rate("sse_gateway_http_published_total", by="outcome"), "{{outcome}}")]),
    ("Bytes to clients", "Bps", "Without what TCP and IP add.", [(rate("sse_gateway_written_bytes_total", by="instance"), "{{instance}}")]),
    ("Streams left to close", "none", "Of nodes that are draining.", [(total("sse_gateway_drain_streams_left", "instance"), "{{instance}}"), (total("sse_gateway_drain_streams"), "at the beginning")]),
    ("Streams by class of rooms", "none", "Where metrics.room_classes names some.", [(total("sse_gateway_class_streams_open", "class"), "{{class}}")]),
    ("Deliveries by class of rooms", "ops", "The same.", [(rate("sse_gateway_class_deliveries_total", by="class"), "{{class}}")]),
]
NODE = [
    ("CPU", "percentunit", "Of one core.", [(rate("process_cpu_seconds_total", by="instance"), "{{instance}}")]),
    ("Memory", "bytes", "In use by the process; the kernel has some 5 KB for each stream besides.", [(total("process_resident_memory_bytes", "instance"), "{{instance}}"), (total("sse_gateway_room_log_bytes", "instance"), "recent events, {{instance}}")]),
    ("Memory of the limit", "percentunit", "Of the control group, buffers of sockets included. Empty where there is no limit.", [(f"sse_gateway_memory_used_bytes{{{INSTANCES}}} / sse_gateway_memory_limit_bytes{{{INSTANCES}}}", "{{instance}}")]),
    ("Shards at work", "percentunit", "At 1 a shard's thread has no time left.", [(rate("sse_gateway_shard_busy_seconds_total", by="instance, shard"), "{{instance}} {{shard}}")]),
    ("Open files", "percentunit", "Of the limit. Each stream is one.", [(f"process_open_fds{{{INSTANCES}}} / process_max_fds{{{INSTANCES}}}", "{{instance}}")]),
    ("Rooms", "none", "With a subscriber, counted once for each shard.", [(total("sse_gateway_rooms", "instance"), "{{instance}}")]),
    ("Events in a write", "none", "Above 1 the node is busy, and carries several in each.", [(rate("sse_gateway_deliveries_total", by="instance") + " / " + rate("sse_gateway_writes_total", by="instance"), "{{instance}}")]),
    ("Events in a pass", "none", "Over a room's streams.", quantiles("sse_gateway_pass_events")),
    ("A turn of writing", "s", "Everything else in a shard waits for it.", quantiles("sse_gateway_sweep_turn_seconds")),
    ("Streams that take no bytes", "none", "They slow nobody else down.", [(total("sse_gateway_streams_stalled", "instance"), "{{instance}}")]),
    ("Bytes behind", "bytes", "Of those, all together.", [(total("sse_gateway_stalled_bytes", "instance"), "{{instance}}")]),
    ("Fell behind the recent events", "ops", "They went on from Redis.", [(rate("sse_gateway_lagged_total", by="instance"), "{{instance}}")]),
    ("Recent events that were let go", "ops", "Because of stream.log_bytes, log_entries or log_memory.", [(rate("sse_gateway_room_log_evicted_total", by="instance"), "{{instance}}")]),
    ("Resumes", "ops", "By what answered them; reset: continuity could not be proved.", [(rate("sse_gateway_resumes_total", by="source"), "{{source}}")]),
    ("Events that resuming streams had missed", "none", "Each was given them.", quantiles("sse_gateway_resume_events")),
    ("Not let in", "ops", "By the limit.", [(rate("sse_gateway_streams_refused_total", by="limit"), "{{limit}}")]),
    ("HTTP requests", "ops", "Streams are counted when they open.", [(rate("sse_gateway_http_requests_total", by="route, status"), "{{route}} {{status}}")]),
    ("HTTP times", "s", "99 of 100 are answered by then; streams are not among them.", [(quantile(0.99, "sse_gateway_http_request_seconds", "le, route"), "{{route}}")]),
    ("Connections", "ops", "Accepted.", [(rate("sse_gateway_http_connections_accepted_total", by="instance"), "{{instance}}")]),
    ("Connections that are no streams", "none", "Open now: publishers, proxies, HTTP/2, and who has not asked yet.", [(total("sse_gateway_http_connections_accepted_total", "instance") + " - " + total("sse_gateway_http_connections_ended_total", "instance"), "{{instance}}")]),
    ("Connections without a request", "ops", "Closed before it, by why: no PROXY header that can be read, or a TLS handshake that failed.", [(rate("sse_gateway_http_connections_dropped_total", by="instance, reason"), "{{instance}} {{reason}}")]),
]
REDIS = [
    ("Events flow", "none", "1 while they do.", [(total("sse_gateway_redis_up", "instance"), "{{instance}}")]),
    ("Events flow from each server", "none", "1 while they do, to the node for which they do worst.", [(f"min by (server) (sse_gateway_redis_server_up{{{INSTANCES}}})", "{{server}}")]),
    ("Through Redis and back", "s", "A message to the node itself.", [(quantile(0.5, "sse_gateway_redis_probe_seconds", "le, instance"), "p50 {{instance}}"), (quantile(0.99, "sse_gateway_redis_probe_seconds", "le, instance"), "p99 {{instance}}")]),
    ("Events by the way they came", "ops", "stream: read from the stream, as after a plain XADD.", [(rate("sse_gateway_redis_events_total", by="path"), "{{path}}")]),
    ("Commands", "ops", "By what for.", [(rate("sse_gateway_redis_commands_total", by="purpose"), "{{purpose}}")]),
    ("Command times", "s", "99 of 100 are answered by then.", [(quantile(0.99, "sse_gateway_redis_command_seconds", "le, purpose"), "{{purpose}}")]),
    ("Commands without an answer", "ops", "By what for.", [(rate("sse_gateway_redis_command_failures_total", by="purpose"), "{{purpose}}")]),
    ("Range reads", "ops", "For resumes and for what was missed.", [(rate("sse_gateway_redis_range_reads_total", by="instance"), "{{instance}}")]),
    ("Holes", "ops", "Messages that did not follow the last one; what was between is read from the stream.", [(rate("sse_gateway_redis_holes_total", by="instance"), "found, {{instance}}"), (rate("sse_gateway_redis_holes_repaired_total", by="instance"), "filled, {{instance}}")]),
    ("Lost connections", "ops", "Subscriptions made anew.", [(rate("sse_gateway_redis_reconnects_total", by="instance"), "{{instance}}")]),
    ("Not delivered", "ops", "Entries and messages that are no events.", [(rate("sse_gateway_redis_skipped_total"), "entries"), (rate("sse_gateway_redis_malformed_total"), "messages")]),
]
ACCESS = [
    ("Refused", "ops", "Requests that were not allowed, by what for and why.", [(rate("sse_gateway_http_refused_total", by="action, reason"), "{{action}}: {{reason}}")]),
    ("Streams that lost their permission", "ops", "expired: the token, or the backend's answer, counts no longer; disconnected: somebody said so.", [(rate("sse_gateway_streams_closed_total", 'reason=~"expired|disconnected"', by="reason"), "{{reason}}")]),
    ("Not let in", "ops", "By the limit; permission: nobody could be asked for it.", [(rate("sse_gateway_streams_refused_total", by="limit"), "{{limit}}")]),
    ("Tokens", "ops", "Looked at, by what told whether they count. Signatures cost CPU.", [(rate("sse_gateway_tokens_checked_total", by="by"), "{{by}}")]),
    ("Keys for tokens", "none", "From settings, files and tokens.jwks_url.", [(total("sse_gateway_token_keys", "instance"), "{{instance}}")]),
    ("Fetches of the key set", "ops", "tokens.jwks_url, by outcome.", [(rate("sse_gateway_jwks_fetches_total", by="instance, outcome"), "{{instance}} {{outcome}}")]),
    ("Age of the key set", "s", "Since it was last fetched; 0 where it never was.", [(f"(time() - sse_gateway_jwks_updated_timestamp_seconds{{{INSTANCES}}}) * (sse_gateway_jwks_updated_timestamp_seconds{{{INSTANCES}}} > bool 0)", "{{instance}}")]),
    ("Key files that cannot be used", "none", "For tokens: times within the last hour; publish.key_files: now.", [(f"sum by (instance) (increase(sse_gateway_token_key_file_errors_total{{{INSTANCES}}}[1h]))", "tokens, {{instance}}"), (total("sse_gateway_publish_key_files_unusable", "instance"), "publish, {{instance}}")]),
    ("Disconnects that were forgotten", "none", "Within the last hour; tokens from before them may count again.", [(f"sum by (instance) (increase(sse_gateway_disconnects_forgotten_total{{{INSTANCES}}}[1h]))", "{{instance}}")]),
    ("Certificates end in", "s", "0 where a listener has none, and where it has ended.", [(f"(sse_gateway_tls_certificate_expires_timestamp_seconds{{{INSTANCES}}} - time()) * (sse_gateway_tls_certificate_expires_timestamp_seconds{{{INSTANCES}}} > bool time())", "{{instance}} {{listener}}")]),
    ("Certificates that cannot be used", "ops", "Tries to read one again that was replaced; the last one is shown meanwhile.", [(rate("sse_gateway_tls_certificate_failures_total", by="instance, listener"), "{{instance}} {{listener}}")]),
    ("The backend's answers", "ops", "forward.url, by what became of the question.", [(rate("sse_gateway_forward_requests_total", by="outcome"), "{{outcome}}")]),
    ("The backend's times", "s", "Waiting for a turn not included.", quantiles("sse_gateway_forward_seconds")),
    ("Requests to the backend under way", "none", "At most forward.max_requests for each node.", [(total("sse_gateway_forward_sent_total", "instance") + " - " + total("sse_gateway_forward_ended_total", "instance"), "{{instance}}")]),
    ("Where permission was found", "ops", "hit: an answer that was kept; shared: a request for somebody else with the same; miss: the backend is asked.", [(rate("sse_gateway_forward_lookups_total", by="result"), "{{result}}")]),
]
BOARDS = {
    "overview": ("sse-gateway: overview", "Is it healthy, how many, how fast, what is lost.", OVERVIEW),
    "node": ("sse-gateway: node", "What a node does, and how near its limits it is.", NODE),
    "access": ("sse-gateway: access", "Who is let in and who is not, and what decides on it.", ACCESS),
    "redis": ("sse-gateway: Redis", "The link, and what is asked of Redis.", REDIS),
}
SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(at, title, unit, about, queries):
    return {
        "id": at + 1,
        "type": "timeseries",
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "gridPos": {"x": at % 3 * 8, "y": at // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(queries)
        ],
    }


def variable(kind, name, label, **more):
    return {"type": kind, "name": name, "label": label, **more}


def board(name, title, about, panels):
    instances = variable(
        "query", "instance", "node", datasource=SOURCE, query="label_values(sse_gateway_build_info, instance)",
        refresh=2, multi=True, includeAll=True, allValue=".*", current={"text": "All", "value": "$__all"},
    )
    return {
        "uid": f"sse-gateway-{name}",
        "title": title,
        "description": about,
        "tags": ["sse-gateway"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [variable("datasource", "source", "data source", query="prometheus"), instances]},
        "links": [{"type": "dashboards", "title": "sse-gateway", "tags": ["sse-gateway"], "asDropdown": True}],
        "panels": [panel(at, *of) for at, of in enumerate(panels)],
    }


def main():
    stale = []
    for name, (title, about, panels) in BOARDS.items():
        path = HERE / f"{name}.json"
        text = json.dumps(board(name, title, about, panels), indent=2) + "\n"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        sys.exit(f"not up to date, run deploy/grafana/dashboards.py: {', '.join(stale)}")


main()
