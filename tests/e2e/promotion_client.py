"""Drives a server with the unmodified package `baseten`: environments, a canary under load, switching off and on.

usage: promotion_client.py URL KEY MODEL OLD NEW

OLD echoes the body, NEW answers a number. Prints a JSON object of what was seen.
"""

import json
import sys
import threading
import time
from datetime import datetime, timedelta, timezone

import httpx
from baseten.client import InferenceClient, ManagementClient
from baseten.client.managementapi import _models as m

url, key, model_name, old, new = sys.argv[1:]
client = ManagementClient(api_key=key, base_url_override=url)
api = client.api
headers = {"Authorization": f"Api-Key {key}"}
predict = f"{url}/models/{model_name}/production/predict"


def environment():
    return api.get_models_environments_env_name(model_id=model_id, env_name="production")


def until(what, holds, patience=60):
    end = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < end, f"not within {patience} s: {what}"
        time.sleep(0.02)


def ask(http, count):
    """Answers how many of `count` requests the new deployment got."""
    seen = 0
    for _ in range(count):
        answer = http.post(predict, content="hello", headers=headers)
        assert answer.status_code == 200, answer.text
        seen += answer.text != "hello"
    return seen


models = api.get_models().models
[model] = [one for one in models if one.name == model_name]
model_id = model.id
assert model.production_deployment_id == old
deployments = api.get_models_deployments(model_id=model_id).deployments
assert {one.id for one in deployments} == {old, new}

# Environments with settings of their own.
staging = api.post_models_environments(
    model_id=model_id,
    request=m.CreateEnvironmentRequest(
        name="staging",
        autoscaling_settings=m.UpdateAutoscalingSettings(min_replica=0, max_replica=3),
    ),
)
assert staging.autoscaling_settings.max_replica == 3 and staging.current_deployment is None
settings = m.UpdateModelPromotionSettings(ramp_up_while_promoting=True, ramp_up_duration_seconds=20)
patched = api.patch_models_environments(
    model_id=model_id,
    env_name="production",
    request=m.UpdateEnvironmentRequest(
        promotion_settings=settings,
        autoscaling_settings=m.UpdateAutoscalingSettings(max_replica=32),
    ),
)
assert patched.status == "ACCEPTED" and patched.environment.promotion_settings.ramp_up_duration_seconds == 20
names = [one.name for one in api.get_models_environments(model_id=model_id).environments]
assert names == ["production", "staging"], names

# Load from 32 clients for as long as anything below goes on.
done = threading.Event()
failures, answers = [], []


def load():
    with httpx.Client(timeout=30) as http:
        while not done.is_set():
            try:
                answer = http.post(predict, content="hello", headers=headers)
                answers.append(answer.status_code)
                if answer.status_code != 200:
                    failures.append((answer.status_code, answer.text[:200]))
            except httpx.HTTPError as error:
                failures.append(repr(error))
            time.sleep(0.02)


clients = [threading.Thread(target=load) for _ in range(32)]
for one in clients:
    one.start()
try:
    request = m.PromoteToEnvironmentRequest(deployment_id=new)
    promote = lambda: api.post_models_environments_promote(model_id=model_id, env_name="production", request=request)
    promote()
    percents = set()

    def sees_thirty():
        promotion = environment().in_progress_promotion
        percents.add(promotion.percent_traffic_to_new_version)
        return promotion.percent_traffic_to_new_version >= 30

    until("the third stage", sees_thirty)
    try:
        promote()
        raise AssertionError("two promotions at once")
    except Exception as error:
        assert "409" in str(error), error
    cancelled = api.post_models_environments_cancel_promotion(model_id=model_id, env_name="production")
    assert cancelled.status == "CANCELED"
    with httpx.Client(timeout=30) as http:
        assert ask(http, 100) == 0, "after cancelling nothing goes to the candidate"
    assert environment().current_deployment.id == old

    promote()
    until("the first stage", lambda: environment().in_progress_promotion.percent_traffic_to_new_version >= 10)
    assert api.post_models_environments_pause_promotion(model_id=model_id, env_name="production").success
    paused = environment().in_progress_promotion
    assert paused.status == "PAUSED"
finally:
    done.set()
    for one in clients:
        one.join()

# Alone with a split that stands still, the share is exact to within one request.
with httpx.Client(timeout=30) as http:
    share = ask(http, 200)
percent = paused.percent_traffic_to_new_version
assert abs(share - 2 * percent) <= 1, (share, percent)

done.clear()
clients = [threading.Thread(target=load) for _ in range(32)]
for one in clients:
    one.start()
try:
    assert api.post_models_environments_resume_promotion(model_id=model_id, env_name="production").success

    def ended():
        now = environment()
        if now.in_progress_promotion:
            percents.add(now.in_progress_promotion.percent_traffic_to_new_version)
        return now.in_progress_promotion is None

    until("the end of the canary", ended)
    assert environment().current_deployment.id == new
    # What nobody calls is switched off, and on again, while the load goes on.
    off = lambda: httpx.post(f"{url}/models/{model_name}/deployment/{old}/predict", content="x", headers=headers)
    assert off().status_code == 200
    assert api.post_models_deployments_deactivate(model_id=model_id, deployment_id=old).success
    assert off().status_code == 404
    until(
        "INACTIVE",
        lambda: api.get_models_deployments_deployment_id(model_id=model_id, deployment_id=old).status == "INACTIVE",
    )
    assert api.post_models_deployments_activate(model_id=model_id, deployment_id=old).success
    assert off().status_code == 200
finally:
    done.set()
    for one in clients:
        one.join()

try:
    api.delete_models_deployments(model_id=model_id, deployment_id=new)
    raise AssertionError("production was deleted")
except Exception as error:
    assert "promote another" in str(error), error
assert api.delete_models_deployments(model_id=model_id, deployment_id=old).deleted
assert off().status_code == 404
inference = InferenceClient(api_key=key, base_url_override=f"{url}/models/{model_id}")
answer = inference.api.predict_production_raw(request={"x": 1}, accept="application/json")
assert answer.status_code == 200 and answer.read().isdigit()

# What both deployments did is in the bill, also of the one that is deleted.
now = datetime.now(timezone.utc)


def billed():
    days = m.GetBillingUsageSummaryParams(start_date=now - timedelta(days=1), end_date=now + timedelta(days=1))
    summary = api.get_billing_usage_summary(params=days)
    return {one.billable_resource.id: one for one in summary.dedicated_usage.breakdown}


until(
    "every request in the bill",
    lambda: sum(one.inference_requests for id, one in billed().items() if id in (old, new)) >= len(answers),
)
assert billed()[old].billable_resource.is_deleted and not billed()[new].billable_resource.is_deleted
print(json.dumps({"failures": failures[:5], "requests": len(answers), "percents": sorted(percents)}))
