"""The one Dagster project: a table of contents of the domains. Importing it sends no request and starts nothing."""

import warnings

import dagster as dg

from .cdc.assets import definitions as cdc_definitions
from .contracts.load import load_contracts
from .events.assets import event_definitions
from .fraud.assets import definitions as fraud_definitions
from .lineage.assets import definitions as lineage_definitions
from .settings import Settings, get_settings


def definitions_for(settings: Settings) -> dg.Definitions:
    """All definitions of one environment. Raises ContractError where a contract does not hold: nothing runs on half of them."""
    contracts = load_contracts(settings.schemas_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references, for every contract
        domains = dg.Definitions.merge(
            event_definitions(settings, contracts),
            cdc_definitions(settings),
            fraud_definitions(settings, contracts),
        )
        return dg.Definitions.merge(
            domains,
            lineage_definitions(settings, contracts, domains.assets or ()),
            dg.Definitions(
                executor=dg.in_process_executor,
                sensors=[
                    dg.AutomationConditionSensorDefinition(
                        "automation", target=dg.AssetSelection.all(), default_status=dg.DefaultSensorStatus.RUNNING
                    )
                ],
            ),
        )


defs = definitions_for(get_settings())
