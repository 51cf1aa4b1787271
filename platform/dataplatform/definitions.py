"""The one Dagster project: a table of contents of the domains. Importing it sends no request and starts nothing."""

import logging
import warnings

import dagster as dg

from .cdc.assets import definitions as cdc_definitions
from .contracts.load import load_contracts
from .events.assets import event_definitions
from .fraud.assets import definitions as fraud_definitions
from .fraud.catalog import BrokenCollectionError
from .lineage.assets import definitions as lineage_definitions
from .settings import Settings, get_settings

_log = logging.getLogger(__name__)


def definitions_for(settings: Settings) -> dg.Definitions:
    """All definitions of one environment. Raises ContractError where a contract does not hold: nothing runs on half of them.

    But for collections: one whose contract does not hold is left out, and fraud detection with it where that needs it.
    """
    contracts = load_contracts(settings.schemas_dir)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references, for every contract
        try:
            fraud = fraud_definitions(settings, contracts)
        except BrokenCollectionError as error:
            _log.error("fraud detection is left out: %s", error)
            fraud = dg.Definitions()
        domains = dg.Definitions.merge(event_definitions(settings, contracts), cdc_definitions(settings), fraud)
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
