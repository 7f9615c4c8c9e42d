"""Reads what a server tells with the unmodified package `baseten`: the audit log, manifests, bundles, logs, the team.

usage: audit_client.py URL KEY MODEL

Prints a JSON object of what was seen; `untyped` names the events that the package has no type for, ours left out.
"""

import io
import json
import sys
import tarfile

import httpx
from baseten.client import ManagementClient
from baseten.client.managementapi import _models as m

url, key, model_name = sys.argv[1:]
api = ManagementClient(api_key=key, base_url_override=url).api
[model] = [one for one in api.get_models().models if one.name == model_name]
deployment = model.production_deployment_id

api.post_models_environments(
    model_id=model.id, request=m.CreateEnvironmentRequest(name="staging")
)
settings = m.UpdateAutoscalingSettings(max_replica=3)
api.patch_models_deployments_autoscaling_settings(
    model_id=model.id, deployment_id=deployment, request=settings
)
api.patch_models_environments(
    model_id=model.id,
    env_name="staging",
    request=m.UpdateEnvironmentRequest(autoscaling_settings=settings),
)
api.post_models_environments_promote(
    model_id=model.id,
    env_name="staging",
    request=m.PromoteToEnvironmentRequest(deployment_id=deployment),
)
[team] = api.get_teams().teams
assert [one.name for one in api.get_teams_models(team_id=team.id).models] == [model_name]
api.post_teams_secrets(team_id=team.id, request=m.UpsertSecretRequest(name="A", value="b"))
assert [one.name for one in api.get_teams_secrets(team_id=team.id).secrets] == ["A"]
api.delete_teams_secrets(team_id=team.id, secret_name="A")

# The whole log in small pages.
entries, cursor = [], None
while True:
    page = api.get_audit_logs(params=m.GetAuditLogsParams(limit=2, direction="ASC", **({"cursor": cursor} if cursor else {})))
    entries += page.items
    cursor = page.pagination.cursor
    if not page.pagination.has_more:
        break
types = [one.event_type for one in entries]
assert types.count("SECRET_UPDATED") == 1 and types.count("MODEL_DEPLOYMENT_PROMOTED") == 1, types
ours = {"MODEL_DEPLOYMENT_UPDATED", "MODEL_DEPLOYMENT_RENAMED", "MODEL_PROMOTION_ENDED"}
untyped = [one.event_type for one in entries if isinstance(one.event_data, dict) and one.event_type not in ours]
me = api.get_users_me()
grouped = api.get_audit_logs(
    params=m.GetAuditLogsParams(event_type_groups=["SECRETS", "DEPLOYED"], user_ids=[me.user_id], sources=["API"])
)
assert [one.event_type for one in grouped.items] == ["SECRET_DELETED", "SECRET_UPDATED", "MODEL_DEPLOYED"], grouped
by_client = grouped.items[0]
assert by_client.client_name == "baseten-python" and by_client.client_version, by_client
assert by_client.actor.api_key_prefix == me.user_id
of_model = api.get_models_audit_logs(
    model_id=model.id, params=m.GetModelsAuditLogsParams(environment_names=["staging"], direction="ASC")
)
assert [one.event_type for one in of_model.items][:2] == ["ENVIRONMENT_CREATED", "ENVIRONMENT_UPDATED"], of_model
assert of_model.items[1].event_data.previous_settings.max_replica == 10

# What was pushed, to read and to take away.
config = api.get_models_deployments_config(model_id=model.id, deployment_id=deployment)
assert config.config["name"] == model_name and f'name = "{model_name}"' in config.raw_config
raw = api.get_models_deployments_config(
    model_id=model.id, deployment_id=deployment, params=m.GetModelsDeploymentsConfigParams(output_format="raw")
)
assert raw.config is None and raw.raw_config == config.raw_config
download = api.get_models_deployments_download(model_id=model.id, deployment_id=deployment)
archive = httpx.get(download.download_url, headers={"Authorization": f"Bearer {key}"})
assert archive.status_code == 200, archive.text
names = tarfile.open(fileobj=io.BytesIO(archive.content)).getnames()
assert names == ["samovar.toml", "component.wasm"], names
logs = api.get_models_environments_logs(
    model_id=model.id,
    env_name="production",
    params=m.GetModelsEnvironmentsLogsParams(includes=["a", "b"], excludes=["c"], search_pattern="^x"),
)
assert logs.logs == []
print(json.dumps({"types": types, "untyped": untyped}))
