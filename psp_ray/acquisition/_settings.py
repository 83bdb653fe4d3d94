"""All settings of the strategies in one class, from which the configuration inherits them."""

from psp_ray.acquisition.alfa_mix import AlfaMixSettings
from psp_ray.acquisition.bandit import BanditSettings
from psp_ray.acquisition.cbsq import CBSQSettings
from psp_ray.acquisition.coreset import CoresetSettings
from psp_ray.acquisition.pcb import PCBSettings
from psp_ray.acquisition.sub import SubsampleSettings
from psp_ray.acquisition.trustset import TrustSetSettings
from psp_ray.acquisition.typiclust import TypiClustSettings


class AcquisitionSettings(
    CoresetSettings,
    TypiClustSettings,
    AlfaMixSettings,
    CBSQSettings,
    TrustSetSettings,
    BanditSettings,
    PCBSettings,
    SubsampleSettings,
):
    """What the strategies beside `vssp` and their wrappers can be told; fields are config keys."""
