"""A gateway with a route, a hook and an error handler of its own; `docs/extending.md` explains it.

gunicorn docs.examples.own_route:app
"""

import json

from flask import current_app, request
from flask_jwt_extended import get_jwt, jwt_required

from proxy.app import create_app
from proxy.errors import BadBody, StationNotFound

app = create_app()


@app.post("/checkout")
@jwt_required()
def checkout():
    """Stores an order in station `orders`, as the user whose token the request carries."""
    order = request.get_json()
    if not isinstance(order, dict) or not isinstance(order.get("id"), str):
        raise BadBody("id: an order needs one, a text")
    message = json.dumps({**order, "by": get_jwt()["sub"]})
    ack = current_app.extensions["stations"].produce(
        "orders", message, headers=(("content-type", "application/json"),), key=f"order-{order['id']}"
    )
    return {"order": order["id"], "place": ack.sequence}, 201


@app.before_request
def refuse_other_regions():
    """Runs before every route, those of the gateway too; what it returns is the answer."""
    if request.headers.get("X-Region", "here") != "here":
        return {"error": "orders of another region go there", "success": False}, 421
    return None


@app.errorhandler(StationNotFound)
def tell_whom_to_ask(error):
    """Answers one kind of error in another way; all others keep the gateway's body."""
    return {"error": f"{error.message}; ask the platform team for it", "success": False, "stored": error.stored}, 404
