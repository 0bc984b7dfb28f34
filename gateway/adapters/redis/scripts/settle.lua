-- Shared by post, void and expire: how a hold ends, once.

local function posted_reply(hold, account, replayed)
  local reply = {'ended', hold[STATE], hold[POSTED], hold[SHORTFALL], account and account.available or 0, replayed}
  for _, part in ipairs(hold[SPLIT]) do reply[#reply + 1] = part end
  return reply
end

-- Take `extra` from what is available, straight to posted; `paid` collects what each pocket gave.
local function take(account, paid, extra)
  account.available = account.available - extra
  account.posted = account.posted + extra
  for i, pocket in ipairs(account.pockets or {}) do
    local part = math.min(pocket.available, extra)
    pocket.available = pocket.available - part
    pocket.posted = pocket.posted + part
    paid[i] = (paid[i] or 0) + part
    extra = extra - part
  end
end

-- End an open hold as `state`, at `cost`: from the hold, then, never above its ceiling, from what is available and every
-- scope allows; what is then missing is the shortfall. A void uses nothing up, an expiry only where something was earned.
-- KEYS are account, hold, open holds, journal, scopes.
local function settle(id, hold, account, counters, now, state, cost, outcome, retention)
  local amount, payable = hold[AMOUNT], math.min(cost, hold[CEILING])
  local from_hold = math.min(payable, amount)
  local extra = payable > from_hold and math.min(payable - from_hold, room_of(account, counters)) or 0
  local posted, uses = from_hold + extra, (state == 'posted' or cost > 0) and 1 or 0
  release(account, hold[SPLIT], amount - from_hold)
  account.held = account.held - from_hold
  account.posted = account.posted + from_hold
  if account.held < 0 then fail('corrupt: less is held than the hold holds') end
  for i, pocket in ipairs(account.pockets or {}) do
    pocket.held = pocket.held - hold[SPLIT][i]
    pocket.posted = pocket.posted + hold[SPLIT][i]
  end
  take(account, hold[SPLIT], extra)
  hold[STATE], hold[POSTED], hold[SHORTFALL] = state, posted, cost - posted
  hold[COST] = state == 'expired' and -1 or cost
  hold[ENDED_AT], hold[OUTCOME] = now, outcome
  if state ~= 'expired' then hold[SCOPES] = {} end
  local more = hold[OWNER] ~= '' and ' owner=' .. hold[OWNER] or ''
  if cost > posted then more = more .. ' shortfall=' .. digits(cost - posted) end
  for i, counter in ipairs(counters) do
    if counter.gone then more = more .. ' scope_lost=' .. i end
    counter.held = math.max(counter.held - (counter.measure == 'u' and 1 or amount), 0)
    counter.used = counter.used + (counter.measure == 'u' and uses or posted)
  end

  journal(KEYS[4], state, now, hold[ACCOUNT], id,
    digits(amount - posted) .. ' -' .. digits(amount) .. ' 0 ' .. digits(posted) .. ' 0', more)
  save_account(KEYS[1], account)
  -- Only what the payer could have been asked for counts against it: beyond the ceiling it is the upstream that erred.
  if payable > posted then call('HSET', KEYS[1], 'shortfalls', digits(account.shortfalls + 1)) end
  call('SET', KEYS[2], cmsgpack.pack(hold), 'PX', digits(retention))
  call('ZREM', KEYS[3], id)
  for _, counter in ipairs(counters) do save_counter(counter) end
  return posted_reply(hold, account, 0)
end
