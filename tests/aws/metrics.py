"""What CloudWatch would make of the metrics that the program writes to its output, as ECS's log driver would carry them.

No log driver and no extraction of metrics from logs is to be had on the test server: the lines are read from the process's
output, and what they declare is put by PutMetricData, with their own names, units and dimensions. So alarms and dashboards are
judged by what the program really tells.
"""

import json


def told(text):
    """The metrics of a process's output: (namespace, name, dimensions, unit, value, seconds)."""
    for line in text.splitlines():
        if '"_aws"' not in line:
            continue
        fields = json.loads(line)
        for directive in fields["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = tuple(sorted((name, fields[name]) for name in names))
                for metric in directive["Metrics"]:
                    name = metric["Name"]
                    yield directive["Namespace"], name, dimensions, metric["Unit"], fields[name], fields["_aws"]["Timestamp"] / 1000


def put_as_log_agent(watch, text):
    """Puts what a process told; which series there were."""
    data, series = {}, set()
    for namespace, name, dimensions, unit, value, at in told(text):
        series.add((namespace, name, dimensions))
        data.setdefault(namespace, []).append(
            {
                "MetricName": name,
                "Dimensions": [{"Name": of, "Value": value} for of, value in dimensions],
                "Unit": unit,
                "Value": value,
                "Timestamp": at,
            }
        )
    for namespace, all_of in data.items():
        for start in range(0, len(all_of), 500):
            watch.put_metric_data(Namespace=namespace, MetricData=all_of[start : start + 500])
    return series


def dimensions_of(pairs):
    return tuple(sorted((pair["Name"], pair["Value"]) for pair in pairs))


def alarms_on(watch, namespace):
    """The series that alarms look at, by the alarm's name."""
    alarms = watch.describe_alarms()["MetricAlarms"]
    return {
        alarm["AlarmName"]: (namespace, alarm["MetricName"], dimensions_of(alarm["Dimensions"]))
        for alarm in alarms
        if alarm.get("Namespace") == namespace
    }


def widgets_on(watch, dashboard, namespace):
    """The series that a dashboard shows. "..." repeats the fields of the line before, "." one of them."""
    series = set()
    for widget in json.loads(watch.get_dashboard(DashboardName=dashboard)["DashboardBody"])["widgets"]:
        before = []
        for line in widget["properties"]["metrics"]:
            fields = [field for field in line if isinstance(field, str)]
            if fields[0] == "...":
                fields = before[: len(before) - len(fields) + 1] + fields[1:]
            fields = [before[at] if field == "." else field for at, field in enumerate(fields)]
            before = fields
            if fields[0] == namespace:
                series.add((namespace, fields[1], tuple(sorted(zip(fields[2::2], fields[3::2], strict=True)))))
    return series


def breaker_states(text):
    """The state of the breaker before the bus over time: 0 closed, 1 half-open, 2 open."""
    return [(at, value) for _, name, _, _, value, at in told(text) if name == "penstock_breaker_state"]
