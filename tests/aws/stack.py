"""The templates of deploy/aws on a server, and what their outputs and roles say."""

import fnmatch
import pathlib
import time

from server import client

TEMPLATES = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "aws"


def deploy(url, pipeline, env, parameters):
    """Deploys both templates, the services with these parameters besides; returns their outputs."""
    return create(url, "data", pipeline, env, {}) | create_services(url, pipeline, env, parameters)


def create_services(url, pipeline, env, parameters):
    network = {"Image": "penstock:test", "VpcId": "vpc-12345678", "SubnetIds": "subnet-12345678"}
    return create(url, "services", pipeline, env, network | parameters)


def create(url, template, pipeline, env, parameters):
    """Deploys one template; returns its outputs."""
    formation, stack = client("cloudformation", url), f"{pipeline}-{template}-{env}"
    given = {"Pipeline": pipeline, "Env": env, "TestServer": "true", **parameters}
    formation.create_stack(
        StackName=stack,
        TemplateBody=(TEMPLATES / f"{template}.yaml").read_text(),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    while (found := formation.describe_stacks(StackName=stack)["Stacks"][0])["StackStatus"] == "CREATE_IN_PROGRESS":
        time.sleep(0.1)
    if found["StackStatus"] != "CREATE_COMPLETE":
        events = formation.describe_stack_events(StackName=stack)["StackEvents"]
        reasons = [event.get("ResourceStatusReason") for event in events if "FAILED" in event["ResourceStatus"]]
        raise SystemExit(f"stack {stack}: {found['StackStatus']}: {reasons}")
    return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}


def delete_services(url, pipeline, env):
    """Deletes the stack of the services, as for a teardown that keeps the data."""
    formation, stack = client("cloudformation", url), f"{pipeline}-services-{env}"
    identity = formation.describe_stacks(StackName=stack)["Stacks"][0]["StackId"]
    formation.delete_stack(StackName=stack)
    # A stack that is deleted is found by its id only.
    while (state := formation.describe_stacks(StackName=identity)["Stacks"][0]["StackStatus"]) == "DELETE_IN_PROGRESS":
        time.sleep(0.1)
    if state != "DELETE_COMPLETE":
        raise SystemExit(f"stack {stack}: {state}")
    events = formation.describe_stack_events(StackName=identity)["StackEvents"]
    left = [event["LogicalResourceId"] for event in events if event["ResourceStatus"] == "DELETE_SKIPPED"]
    if left:
        # AWS makes nothing anew under a name that is taken; the test server does.
        raise SystemExit(f"stack {stack} leaves behind what its next deployment makes again: {left}")


def allowed(url, role_arn):
    """The (action, resource) pairs that a role's own policies allow."""
    iam, role = client("iam", url), role_arn.rsplit("/", 1)[-1]
    pairs = set()
    for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        for statement in document["Statement"]:
            actions, resources = statement["Action"], statement["Resource"]
            actions = [actions] if isinstance(actions, str) else actions
            resources = [resources] if isinstance(resources, str) else resources
            pairs |= {(action, resource) for action in actions for resource in resources}
    return pairs


def compare(recorded, role, unseen):
    """What a role lacks, what it has that was never used, and what of `unseen` was seen after all.

    `unseen` names what a run can't make happen, by action and a part of the resource.
    """

    def covers(pair, used):
        (action, resource), (used_action, used_resource) = pair, used
        if action != used_action:
            return False
        if used_resource == "stream":
            return "/stream/" in resource
        return fnmatch.fnmatchcase(used_resource, resource.split(":", 5)[-1])

    def is_unseen(action, resource):
        return any(action == named and part in resource for named, part in unseen)

    lacking = sorted(used for used in recorded if not any(covers(pair, used) for pair in role))
    unused = sorted(pair for pair in role if not any(covers(pair, used) for used in recorded) and not is_unseen(*pair))
    stale = sorted(used for used in recorded if is_unseen(*used))
    return lacking, unused, stale
