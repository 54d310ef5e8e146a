"""The containers and protocols that libav may open: one list for PyAV and for the ffmpeg binary.

A file or the body of a response may be a playlist, a manifest, a concat script or a session
description, whatever its name. All of these name other files and addresses, which libav would open.
libav detects the container from the content and compares it with this list before it reads on.
"""

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,live_flv,mpeg,mpegts,ogg,asf,wav,w64,aiff,mp3,aac,"
    "flac,amr,au,caf,mxf,rm,h264,hevc,dv,gif,ivf,nut,m4v,vob,mpegvideo,ac3,eac3"
)
FILE = "file"
HTTP = "http,https,tcp,tls,httpproxy"


def input_options(protocols: str, containers: str = CONTAINERS) -> dict[str, str]:
    """Return libav's options for one input, for `av.open(options=…)`."""
    return {"protocol_whitelist": protocols, "format_whitelist": containers}


def ffmpeg_input(protocols: str, containers: str = CONTAINERS) -> list[str]:
    """Return the same options as arguments of ffmpeg, to stand before `-i`."""
    options = input_options(protocols, containers)
    return [word for name, value in options.items() for word in (f"-{name}", value)]
